"""Targets: an open query and a closed session take labels in the same way."""

from stream.join.labels import MergeResult
from tests.laws.join_log import CLIENTS, SETTINGS, START_TS
from tests.stream.join.state import WINDOW_MS, State, click_label


def test_an_open_list_is_a_target_until_its_window_ends() -> None:
    state = State()
    query = state.open_query(1)
    target = state.targets.find("q1")
    assert target is not None
    assert (target.is_open, target.client_id, target.event_ts) == (True, CLIENTS[0], START_TS)
    assert target.last_ts == START_TS + WINDOW_MS - 1
    assert target.shown.item_id == ["item-0", "item-1"]
    assert len(target.labels) == 0
    assert target.merge(click_label(1), "click") is MergeResult.ADDED
    assert query.labels is not None
    assert set(query.labels.clicks) == {"c1"}
    again = state.targets.find("q1")
    assert again is not None
    assert len(again.labels) == 1


def test_a_closed_session_is_a_target_until_its_attribution_window_ends() -> None:
    state = State()
    state.close_labelled(1)
    target = state.targets.find("q1")
    assert target is not None
    assert (target.is_open, target.client_id, target.event_ts) == (False, CLIENTS[0], START_TS)
    assert target.last_ts == START_TS + SETTINGS.attribution_s * 1_000
    assert target.shown.item_id == ["item-0", "item-1"]
    assert target.merge(click_label(5, item=1), "click") is MergeResult.ADDED
    (corrected,) = state.closed.take_corrected()
    assert (corrected.items, corrected.reasons, corrected.has_grown) == ({1}, {"click"}, True)


def test_an_open_query_comes_before_a_closed_session() -> None:
    state = State()
    state.close_labelled(1)
    state.open_query(1)
    target = state.targets.find("q1")
    assert target is not None
    assert target.is_open


def test_the_newest_open_list_that_shows_the_item_is_inferred() -> None:
    state = State()
    state.open_query(1)
    state.open_query(2, at_s=10)
    state.open_query(3, at_s=20, items=("item-5",))
    found = state.targets.find_newest(CLIENTS[0], "item-1", START_TS + 30_000)
    assert found is not None
    assert found.query_id == "q2"
    earlier = state.targets.find_newest(CLIENTS[0], "item-1", START_TS + 9_999)
    assert earlier is not None
    assert earlier.query_id == "q1"
    assert state.targets.find_newest(CLIENTS[0], "item-1", START_TS + 10_000 + WINDOW_MS) is None
    assert state.targets.find_newest(CLIENTS[1], "item-1", START_TS + 30_000) is None


def test_a_missing_list_has_a_reason() -> None:
    state = State()
    state.closed.add_unlabelled("q1", START_TS)
    state.closed.add_evicted("q2", START_TS)
    assert state.targets.absence("q1")[0] == "too_late"
    assert state.targets.absence("q2")[0] == "evicted"
    assert state.targets.absence("q3")[0] == "no_impression"
    assert state.targets.was_evicted("q2")
    assert not state.targets.was_evicted("q1")
