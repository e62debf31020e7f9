"""Closed sessions: corrections, eviction and the memory of the others."""

from dataclasses import replace

from stream.join import rows
from stream.join.closed_sessions import ClosedSessions
from stream.join.tiers import BatchNumbers, WarmTier
from stream.schemas.times import HOUR_MS
from tests.laws.join_log import (
    CLIENTS,
    SETTINGS,
    START_TS,
    Event,
    Log,
    click,
    impression,
    run_in_order,
    send,
)
from tests.stream.join.runs import WINDOW_S, reasons
from tests.stream.join.state import State, click_label


def test_sessions_above_the_size_limit_are_evicted() -> None:
    tiny = replace(SETTINGS, warm_max_bytes=2_000)
    happened: list[Event] = []
    for number in range(12):
        happened.append(impression(number, at_s=number))
        happened.append(click(number, number, "item-1", at_s=number + 1))
    happened.append(impression(50, client=CLIENTS[1], at_s=WINDOW_S + 500))  # lets ticks pass before the click
    happened.append(click(99, 0, "item-2", at_s=WINDOW_S + 640))
    result = run_in_order(Log.of((send(event) for event in happened), settings=tiny), tiny)
    assert reasons(result) == ["evicted"]
    assert result.join.counters["evicted_rows"] > 0


def test_an_event_sees_what_had_not_expired_at_its_own_time() -> None:
    """The rows still exist: the time of their deletion depends on micro-batches."""
    state = State()
    state.close_labelled(1)
    state.closed.add_unlabelled("q2", (), START_TS)
    last_ts = START_TS + SETTINGS.attribution_s * 1_000 + SETTINGS.slack_ms
    hour_end_ts = (START_TS // HOUR_MS + 1) * HOUR_MS + SETTINGS.attribution_s * 1_000
    assert state.closed.find_session("q1", last_ts - 1) is not None
    assert state.closed.find_session("q1", last_ts) is None
    assert state.closed.was_unlabelled("q2", hour_end_ts - 1)
    assert not state.closed.was_unlabelled("q2", hour_end_ts)


def test_a_late_event_sees_nothing_that_has_expired() -> None:
    """The rows still exist: confirmations decide the time of their deletion."""
    state = State()
    state.close_labelled(1)
    state.closed.add_unlabelled("q2", (), START_TS)
    state.closed.flush()
    state.warm.flush()
    last_ts = START_TS + SETTINGS.attribution_s * 1_000 + SETTINGS.slack_ms
    hour_end_ts = (START_TS // HOUR_MS + 1) * HOUR_MS + SETTINGS.attribution_s * 1_000
    list(state.warm.expire(last_ts - 1))
    assert state.closed.find_session("q1", START_TS) is not None
    list(state.warm.expire(last_ts))
    assert state.closed.find_session("q1", START_TS) is None
    list(state.warm.expire(hour_end_ts - 1))
    assert state.closed.was_unlabelled("q2", START_TS)
    list(state.warm.expire(hour_end_ts))
    assert not state.closed.was_unlabelled("q2", START_TS)


def test_a_correction_holds_all_merges_of_a_micro_batch() -> None:
    state = State()
    state.close_labelled(1)
    for label, reason in ((click_label(7, item=1), "click"), (click_label(8), "conversion")):
        session = state.closed.find_session("q1", START_TS)
        assert session is not None
        session.merge(label, reason)
    (corrected,) = state.closed.take_corrected()
    assert corrected.query_id == "q1"
    assert ({label.item for label in corrected.merged}, corrected.reasons) == ({0, 1}, {"click", "conversion"})
    assert len(corrected.row.labels) == 3
    assert list(state.closed.take_corrected()) == []


def test_a_repeated_label_is_emitted_again_without_a_new_revision_and_a_copy_is_not() -> None:
    state = State()
    state.close_labelled(1)
    session = state.closed.find_session("q1", START_TS)
    assert session is not None
    session.merge(click_label(0, offset=99), "click")
    assert list(state.closed.take_corrected()) == []
    session.merge(click_label(0), "click")
    (corrected,) = state.closed.take_corrected()
    assert not corrected.has_grown


def test_digests_of_closed_queries_survive_a_restart_and_go_with_their_row() -> None:
    state = State()
    state.closed.add_unlabelled("q1", (), START_TS)
    state.closed.add_evicted("q2", (), START_TS)
    assert state.closed.was_unlabelled("q1", START_TS)
    assert not state.closed.was_unlabelled("q2", START_TS)
    state.closed.flush()
    state.warm.flush()
    batches = BatchNumbers()
    ahead = ClosedSessions(0, SETTINGS, WarmTier(dict(state.warm_rows), batches), batches)
    ahead.restore(state.warm_rows.items())
    assert not ahead.was_unlabelled("q1", START_TS), "the query closes again after a restart before its close"
    assert ahead.was_evicted("q2", START_TS)
    batches.advance(0)
    restarted = ClosedSessions(0, SETTINGS, WarmTier(state.warm_rows, batches), batches)
    restarted.restore(state.warm_rows.items())
    assert restarted.was_unlabelled("q1", START_TS)
    assert restarted.was_evicted("q2", START_TS)
    restarted.forget(rows.closed_key(b"c", 0, START_TS // 3_600_000, 0))
    assert not restarted.was_unlabelled("q1", START_TS)
    assert restarted.was_evicted("q2", START_TS)
