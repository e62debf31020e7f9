"""Open queries: indexes, labels and the deletion of their rows."""

from stream.join import rows
from stream.join.labels import MergeResult
from tests.laws.join_log import CLIENTS, SETTINGS, START_TS
from tests.stream.join.state import State, click_label


def test_an_open_query_is_found_by_id_and_by_client() -> None:
    state = State()
    first, second = state.open_query(1), state.open_query(2)
    assert state.open.get("q1") is first
    assert state.open.get("q2") is second
    newest = state.open.find_newest(CLIENTS[0], "item-0", START_TS)
    assert newest is not None
    assert newest.query_id == "q2"
    assert state.open.find_newest("another", "item-0", START_TS) is None
    assert len(state.open) == state.load.num_events(CLIENTS[0]) == 2


def test_new_labels_count_for_the_client_and_are_written_once() -> None:
    state = State()
    query = state.open_query(1)
    state.hot.flush()
    results = [state.open.merge_label(query, label) for label in (click_label(1), click_label(1), click_label(2))]
    assert results == [MergeResult.ADDED, MergeResult.REPEATED, MergeResult.ADDED]
    assert state.load.num_events(CLIENTS[0]) == 3
    state.open.flush()
    assert query.labels is not None
    assert state.hot.flush() == {rows.labels_key("q1"): rows.pack_labels(query.labels)}
    state.open.merge_label(query, click_label(2))
    state.open.flush()
    assert state.hot.flush() == {}, "a repeated label changes no row"


def test_a_closed_query_leaves_nothing_after_its_confirmation() -> None:
    state = State()
    query = state.open_query(1)
    state.open.merge_label(query, click_label(1))
    state.open.flush()
    state.hot.flush()
    close_ts = query.close_ts + SETTINGS.clock_tolerance_ms
    assert list(state.deadlines.pop_due(close_ts - 1)) == []
    assert list(state.deadlines.pop_due(close_ts)) == [(close_ts, "q1")]
    state.open.close(query)
    assert state.open.get("q1") is None
    assert state.open.find_newest(CLIENTS[0], "item-0", START_TS) is None
    assert state.load.num_events(CLIENTS[0]) == 0
    state.batches.confirm(0)
    state.hot.delete_confirmed()
    state.hot.flush()
    assert state.hot_rows == {}


def test_a_query_that_opens_again_keeps_its_rows() -> None:
    state = State()
    state.open.close(state.open_query(1))
    state.open_query(1)
    state.batches.confirm(0)
    state.hot.delete_confirmed()
    state.hot.flush()
    assert set(state.hot_rows) == {rows.impression_key("q1")}
