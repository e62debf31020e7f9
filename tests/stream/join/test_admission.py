"""Admission: clients, keys and times that are refused."""

from dataclasses import replace

from stream.schemas import events, topics
from tests.laws.join_log import (
    CLIENTS,
    SETTINGS,
    START_TS,
    Event,
    Log,
    Outputs,
    Tables,
    click,
    impression,
    purchase,
    run,
    send,
)
from tests.stream.join.runs import reasons, run_events


def test_a_client_with_too_many_open_events_is_capped() -> None:
    capped = replace(SETTINGS, max_client_events=3)
    clicks: list[Event] = [click(number, 1, "item-1", at_s=number) for number in range(10)]
    result = run_events([impression(1), *clicks, impression(2, client=CLIENTS[1])], capped)
    assert reasons(result, topics.DEAD_LETTERS) == ["hot_key"] * 8
    assert result.outcomes["joined"] == 4


def test_misrouted_and_future_records_are_dead() -> None:
    good = events.encode(impression(1))
    foreign = impression(1, client="client-0")
    far = impression(1, at_s=2 * 86_400)
    log = Log()
    log.tick(START_TS, 0)
    log.append(topics.IMPRESSIONS, b"somebody else", good, START_TS)
    log.append(topics.IMPRESSIONS, None, good, START_TS)
    log.append(topics.IMPRESSIONS, b"client-0", events.encode(foreign), START_TS)
    log.append(topics.IMPRESSIONS, far.client_id.encode(), events.encode(far), START_TS)
    join, outputs = Tables().join(), Outputs()
    for name in (topics.TICKS, topics.IMPRESSIONS):
        outputs.take(join.apply(log.records[name]))
    assert outputs.dead_letters(topics.DEAD_LETTERS).total() == 4
    assert join.counters["misrouted"] == 3
    assert join.counters["future_ts"] == 1
    assert join.open_sessions == 0


def test_one_wrong_clock_does_not_move_the_others() -> None:
    """S13 on the join: clients an hour off and an event ten years ahead change no other client's session."""
    others: list[Event] = [impression(1), click(1, 1, "item-1", at_s=800), purchase(1, 1, ["item-1"], at_s=850)]
    wrong: list[Event] = [
        impression(5, client=CLIENTS[1], at_s=3_600),
        click(5, 5, "item-1", client=CLIENTS[1], at_s=-3_600),
        click(6, 1, "item-1", client=CLIENTS[1], at_s=10 * 365 * 86_400),
    ]
    sent = [send(event) for event in others] + [send(event, START_TS + 5_000 - event.event_ts) for event in wrong]
    result = run(Log.of(sent))
    assert reasons(result, topics.DEAD_LETTERS) == ["future_ts"]
    assert result.outputs.final()["q1"] == run_events(others).outputs.final()["q1"]
    assert result.join.counters["clamped"] >= 1
