"""Positions: next offsets, and ends as far as known."""

from stream.join.positions import Positions
from stream.schemas import topics


def test_a_record_is_merged_once() -> None:
    positions = Positions()
    assert positions.advance(topics.CLICKS, 5)
    assert not positions.advance(topics.CLICKS, 5)
    assert not positions.advance(topics.CLICKS, 4)
    assert positions.advance(topics.CLICKS, 9), "offsets may have gaps"
    assert positions.next_offsets == {topics.CLICKS: 10}
    assert positions.has_merged(topics.CLICKS, 9)
    assert not positions.has_merged(topics.CLICKS, 10)


def test_a_seed_never_moves_a_position_back() -> None:
    positions = Positions()
    positions.seed({topics.CLICKS: 7}, {})
    positions.seed({topics.CLICKS: 3, topics.IMPRESSIONS: 2}, {})
    assert positions.next_offsets == {topics.CLICKS: 7, topics.IMPRESSIONS: 2}


def test_the_end_of_a_topic_advances_with_the_ticks_only() -> None:
    positions = Positions()
    assert not positions.is_caught_up(topics.CLICKS), "no tick has stated an end"
    positions.learn_ends({topics.CLICKS: 0}, 100, {})
    assert positions.is_caught_up(topics.CLICKS)
    positions.learn_ends({topics.CLICKS: 2}, 200, {})
    positions.learn_ends({topics.CLICKS: 2}, 300, {})
    positions.learn_ends({topics.CLICKS: 1}, 400, {})
    assert (positions.ends, positions.last_advance_ts) == ({topics.CLICKS: 2}, {topics.CLICKS: 200})
    positions.advance(topics.CLICKS, 2)
    assert not positions.is_caught_up(topics.CLICKS), "a record past the known end was read"
    assert positions.has_read_all(topics.CLICKS)


def test_lag_counts_the_ends_at_the_start_as_well() -> None:
    positions = Positions()
    assert not positions.is_lagging(topics.CLICKS)
    positions.seed({}, {topics.CLICKS: 1})
    assert positions.is_lagging(topics.CLICKS)
    assert positions.has_read_all(topics.CLICKS), "the ends at the start count for back-pressure only"
    positions.advance(topics.CLICKS, 0)
    assert not positions.is_lagging(topics.CLICKS)


def test_a_marker_at_the_end_of_a_topic_is_nothing_to_read() -> None:
    """A commit marker takes an offset that no record has."""
    positions = Positions()
    positions.learn_ends({topics.CLICKS: 4}, 100, {})
    for offset in range(3):
        positions.advance(topics.CLICKS, offset)
    assert not positions.is_caught_up(topics.CLICKS), "offset 3 may hold a record"
    positions.learn_ends({topics.CLICKS: 4}, 200, {topics.CLICKS: 3})
    assert positions.is_caught_up(topics.CLICKS)
    assert positions.has_read_all(topics.CLICKS)
    assert not positions.is_lagging(topics.CLICKS)
    assert positions.last_advance_ts == {topics.CLICKS: 100}


def test_a_marker_does_not_stand_for_the_records_before_it() -> None:
    positions = Positions()
    positions.learn_ends({topics.CLICKS: 4}, 100, {topics.CLICKS: 3})
    positions.advance(topics.CLICKS, 1)
    assert not positions.is_caught_up(topics.CLICKS), "a reader that is behind the writer of the tick"
    assert positions.is_lagging(topics.CLICKS)
    positions.advance(topics.CLICKS, 2)
    assert positions.is_caught_up(topics.CLICKS)
    positions.advance(topics.CLICKS, 4)
    assert not positions.is_caught_up(topics.CLICKS), "a record past the known end was read"


def test_a_tick_about_an_older_end_tells_nothing_about_a_newer_one() -> None:
    positions = Positions()
    positions.learn_ends({topics.CLICKS: 4}, 100, {topics.CLICKS: 3})
    positions.learn_ends({topics.CLICKS: 6}, 200, {})
    positions.learn_ends({topics.CLICKS: 4}, 300, {topics.CLICKS: 3})
    positions.advance(topics.CLICKS, 2)
    assert (positions.ends, positions.tails) == ({topics.CLICKS: 6}, {})
    assert not positions.is_caught_up(topics.CLICKS)
