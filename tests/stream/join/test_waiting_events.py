"""Waiting events: a click or an order before its list."""

from stream.join import rows
from stream.join.rows import Source
from stream.join.waiting_events import WaitingEvent
from stream.schemas.events import Click, Conversion
from tests.laws.join_log import (
    CLIENTS,
    PARTITION,
    START_TS,
    Log,
    click,
    impression,
    purchase,
    reversal,
    run,
    send,
    topic_of,
)
from tests.stream.join.state import State


def _waiting(event: Click | Conversion, *, offset: int) -> WaitingEvent:
    source = Source(topic_of(event), PARTITION, offset, START_TS, b"raw")
    return WaitingEvent(event, 0, source, event.event_ts + 1_000)


def test_an_event_waits_for_its_impression() -> None:
    log = Log.of([send(impression(1), 200_000), send(click(1, 1, "item-1", at_s=1), 0)])
    result = run(log)
    assert result.outcomes == {"produced": 2, "joined": 2, "duplicate": 0, "late": 0, "orphan": 0, "dead": 0}


def test_a_waiting_event_is_found_by_the_query_that_it_names() -> None:
    state = State()
    waiting = _waiting(click(1, 7, "item-1"), offset=3)
    state.waiting.add(waiting)
    (key,) = dict(state.waiting.of_query("q7"))
    assert state.waiting.get(key) is waiting
    assert state.waiting.of_query("q8") == []
    assert state.load.num_events(CLIENTS[0]) == len(state.waiting) == 1
    assert list(state.deadlines.pop_due(waiting.deadline_ts)) == [(waiting.deadline_ts, key)]


def test_the_row_of_a_joined_event_names_its_impression_until_it_is_deleted() -> None:
    state = State()
    waiting = _waiting(click(1, 7, "item-1"), offset=3)
    state.waiting.add(waiting)
    ((key, _),) = state.waiting.of_query("q7")
    state.waiting.remove(key, waiting, joined_by=12)
    assert (len(state.waiting), state.waiting.of_query("q7"), state.load.num_events(CLIENTS[0])) == (0, [], 0)
    state.hot.flush()
    assert rows.unpack_waiting(key, state.hot_rows[key]) == (waiting.source, 0, 12)
    state.batches.confirm(0)
    state.hot.delete_confirmed()
    state.hot.flush()
    assert state.hot_rows == {}


def test_a_reversal_is_due_after_a_purchase_with_the_same_deadline() -> None:
    state = State()
    bought = purchase(1, None, ["item-1"])
    refund = reversal(bought, 1, after_s=0)
    state.waiting.add(_waiting(refund, offset=1))
    state.waiting.add(_waiting(bought, offset=2))
    due = [state.waiting.get(key) for _, key in state.deadlines.pop_due(2 * START_TS) if isinstance(key, bytes)]
    assert [each.event.action_name for each in due if each is not None] == ["purchase", "refund"]
