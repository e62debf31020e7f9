"""Newest clicks by client and item: the click that a conversion joins, and the number that is kept."""

from stream.join import rows
from stream.join.item_clicks import ItemClicks
from stream.join.rows import ItemClick
from tests.laws.join_log import SETTINGS, START_TS
from tests.stream.join.state import State

ATTRIBUTION_MS = SETTINGS.attribution_s * 1_000


def _click(number: int) -> ItemClick:
    return ItemClick(START_TS + number, f"c{number}", f"q{number}", START_TS)


def _kept(state: State) -> list[ItemClick]:
    stored = state.warm.get(rows.clicks_key("c", "i"))
    assert stored is not None
    return rows.unpack_clicks(stored)


def test_a_conversion_joins_the_last_click_before_it() -> None:
    state = State()
    clicks = ItemClicks(SETTINGS, state.warm, state.batches)
    for number in (3, 1, 2):
        clicks.add("c", "i", _click(number))
    assert clicks.last_query("c", "i", START_TS) == "q1", "the first click within the tolerance of clocks"
    assert clicks.last_query("c", "i", START_TS + 1 - SETTINGS.clock_tolerance_ms) == "q1"
    assert clicks.last_query("c", "i", START_TS - SETTINGS.clock_tolerance_ms) is None
    assert clicks.last_query("c", "i", START_TS + 2) == "q2"
    assert clicks.last_query("c", "i", START_TS + ATTRIBUTION_MS) == "q3"
    assert clicks.last_query("c", "i", START_TS + ATTRIBUTION_MS + 1) is None
    assert clicks.last_query("c", "other", START_TS + 2) is None


def test_a_known_click_is_not_added_again() -> None:
    state = State()
    clicks = ItemClicks(SETTINGS, state.warm, state.batches)
    clicks.add("c", "i", _click(1))
    state.warm.flush()
    clicks.add("c", "i", _click(1))
    assert state.warm.flush() == {}


def test_clicks_beyond_the_newest_few_are_kept_while_a_conversion_may_join_them_after_a_restart() -> None:
    state = State()
    clicks = ItemClicks(SETTINGS, state.warm, state.batches)
    for number in range(12):
        clicks.add("c", "i", _click(number))
    assert len(_kept(state)) == 12
    state.batches.advance(START_TS + 10)
    clicks.add("c", "i", _click(12))
    assert len(_kept(state)) == 13, "a restart may read orders again"
    state.batches.confirm(0)
    clicks.add("c", "i", _click(13))
    # Orders from click 10 on may have no outcome yet; of the clicks before it, the newest stay.
    assert [click.event_ts - START_TS for click in _kept(state)] == [13, 12, 11, 10, 9, 8, 7, 6, 5]
    assert SETTINGS.clicks_per_item == 5


def test_a_late_conversion_sees_no_click_that_is_superfluous_but_not_dropped() -> None:
    state = State()
    clicks = ItemClicks(SETTINGS, state.warm, state.batches)
    for number in range(12):
        clicks.add("c", "i", _click(number))
    assert clicks.last_query("c", "i", START_TS + 1) == "q1"
    state.batches.advance(START_TS + 10)
    assert len(_kept(state)) == 12
    assert clicks.last_query("c", "i", START_TS + 5) == "q5"
    assert clicks.last_query("c", "i", START_TS + 4) == "q5", "the first one within the tolerance of clocks"
    assert clicks.query_of("c", "i", "c5") == "q5"
    assert clicks.query_of("c", "i", "c4") is None


def test_a_click_whose_window_outlasts_those_of_newer_clicks_is_kept() -> None:
    state = State()
    clicks = ItemClicks(SETTINGS, state.warm, state.batches)
    clicks.add("c", "i", ItemClick(START_TS + 5, "long", "q5", START_TS + 4))
    state.batches.advance(START_TS + 100)
    state.batches.confirm(0)
    for number in range(6, 20):
        clicks.add("c", "i", _click(number))
    assert clicks.last_query("c", "i", START_TS + ATTRIBUTION_MS) == "q19"
    assert clicks.last_query("c", "i", START_TS + ATTRIBUTION_MS + 1) == "q5"


def test_an_earlier_part_of_a_list_makes_its_clicks_older() -> None:
    state = State()
    clicks = ItemClicks(SETTINGS, state.warm, state.batches)
    clicks.add("c", "i", _click(1))
    clicks.add("c", "i", _click(2))
    clicks.restate("c", "i", "q2", START_TS - 10)
    clicks.restate("c", "other", "q2", START_TS - 10)
    assert [(click.query_id, click.impression_ts) for click in _kept(state)] == [
        ("q2", START_TS - 10),
        ("q1", START_TS),
    ]
    assert clicks.last_query("c", "i", START_TS + ATTRIBUTION_MS - 10) == "q2"
    assert clicks.last_query("c", "i", START_TS + ATTRIBUTION_MS) == "q1"
    assert state.warm.get(rows.clicks_key("c", "other")) is None
