"""Lists: the one that an event joins, and the reason if there is none."""

from tests.laws.join_log import CLIENTS, START_TS
from tests.stream.join.state import WINDOW_MS, State


def test_an_open_query_comes_before_a_closed_session() -> None:
    state = State()
    state.close_labelled(1)
    state.open_query(1)
    target = state.lists.find("q1", START_TS)
    assert target is not None
    assert target.is_open


def test_the_newest_open_list_that_shows_the_item_is_inferred() -> None:
    state = State()
    state.open_query(1)
    state.open_query(2, at_s=10)
    state.open_query(3, at_s=20, items=("item-5",))
    found = state.lists.find_newest(CLIENTS[0], "item-1", START_TS + 30_000)
    assert found is not None
    assert found.query_id == "q2"
    earlier = state.lists.find_newest(CLIENTS[0], "item-1", START_TS + 9_999)
    assert earlier is not None
    assert earlier.query_id == "q1"
    assert state.lists.find_newest(CLIENTS[0], "item-1", START_TS + 10_000 + WINDOW_MS) is None
    assert state.lists.find_newest(CLIENTS[1], "item-1", START_TS + 30_000) is None


def test_a_missing_list_has_a_reason() -> None:
    state = State()
    state.closed.add_unlabelled("q1", (), START_TS)
    state.closed.add_evicted("q2", (), START_TS)
    assert state.lists.absence("q1", START_TS)[0] == "too_late"
    assert state.lists.absence("q2", START_TS)[0] == "evicted"
    assert state.lists.absence("q3", START_TS)[0] == "no_impression"
    assert state.lists.is_evicted("q2", START_TS)
    assert not state.lists.is_evicted("q1", START_TS)
