"""Targets: an open query and a closed session take labels in the same way."""

from stream.join.labels import MergeResult
from tests.laws.join_log import CLIENTS, SETTINGS, START_TS
from tests.stream.join.state import WINDOW_MS, State, click_label


def test_an_open_list_is_a_target_until_its_window_ends() -> None:
    state = State()
    query = state.open_query(1)
    target = state.lists.find("q1", START_TS)
    assert target is not None
    assert (target.is_open, target.client_id, target.event_ts) == (True, CLIENTS[0], START_TS)
    assert target.last_ts == START_TS + WINDOW_MS - 1
    assert target.shown.item_id == ["item-0", "item-1"]
    assert len(target.labels) == 0
    assert target.merge(click_label(1), "click") is MergeResult.ADDED
    assert query.labels is not None
    assert set(query.labels.clicks) == {"c1"}
    again = state.lists.find("q1", START_TS)
    assert again is not None
    assert len(again.labels) == 1


def test_a_closed_session_is_a_target_until_its_attribution_window_ends() -> None:
    state = State()
    state.close_labelled(1)
    target = state.lists.find("q1", START_TS)
    assert target is not None
    assert (target.is_open, target.client_id, target.event_ts) == (False, CLIENTS[0], START_TS)
    assert target.last_ts == START_TS + SETTINGS.attribution_s * 1_000
    assert target.shown.item_id == ["item-0", "item-1"]
    assert target.merge(click_label(5, item=1), "click") is MergeResult.ADDED
    (corrected,) = state.closed.take_corrected()
    assert (corrected.merged, corrected.reasons, corrected.has_grown) == ([click_label(5, item=1)], {"click"}, True)
