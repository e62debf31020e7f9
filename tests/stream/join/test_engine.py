"""The join as a whole: one session for each query, revisions, one outcome for each record."""

import pytest

from stream.schemas import events, topics
from tests.laws.join_log import (
    CLIENTS,
    PARTITION,
    START_TS,
    Event,
    Log,
    Outputs,
    Tables,
    click,
    impression,
    purchase,
    reversal,
    run,
    run_in_order,
    send,
)
from tests.stream.join.runs import WINDOW_S, last_session, reasons, run_events


def test_a_clicked_list_closes_once_with_its_click() -> None:
    result = run_events([impression(1), click(1, 1, "item-1", at_s=30)])
    (closed,) = result.outputs.sessions()
    assert (closed.revision, closed.reason, closed.n) == (0, "close", 3)
    assert closed.close_ts == START_TS + WINDOW_S * 1_000
    assert closed.watermark_ts >= closed.close_ts
    assert closed.column("clicks").tolist() == [0, 1, 0]
    assert closed.column("click_delay_ms").tolist() == [-1, 30_000, -1]
    assert closed.column("changed").tolist() == [1]
    assert [event.link for event in closed.events] == ["query_id"]
    assert closed.src == (PARTITION, 0)


def test_an_unclicked_list_closes_with_no_labels() -> None:
    (closed,) = run_events([impression(1)]).outputs.sessions()
    assert closed.events == []
    assert closed.lines == []
    assert closed.column("clicks").tolist() == [0, 0, 0]
    assert closed.column("changed").tolist() == []


def test_later_events_of_a_clicked_session_are_revisions() -> None:
    order = purchase(1, 1, ["item-2"], at_s=WINDOW_S + 900)
    happened: list[Event] = [
        impression(1),
        click(1, 1, "item-1", at_s=30),
        click(2, 1, "item-2", at_s=WINDOW_S + 500),
        order,
        reversal(order, 1, after_s=3_000),
    ]
    result = run_in_order(Log.of(send(event) for event in happened))
    revisions = result.outputs.sessions()
    assert [(s.revision, s.reason) for s in revisions] == [(0, "close"), (1, "click"), (2, "conversion"), (3, "refund")]
    assert [s.column("changed").tolist() for s in revisions] == [[1], [2], [2], [2]]
    last = revisions[-1]
    assert last.column("gross_minor").tolist() == [0, 0, 500]
    assert last.column("refund_minor").tolist() == [0, 0, 500]
    assert [line.action for line in last.lines] == ["purchase", "refund"]
    assert len({s.label_key for s in revisions}) == 4


def test_a_second_list_for_a_query_is_a_dead_letter() -> None:
    conflicting = impression(1)
    conflicting.event_id = "another"
    result = run_events([impression(1), conflicting])
    assert reasons(result, topics.DEAD_LETTERS) == ["conflicting_impression"]
    assert result.outcomes == {"produced": 2, "joined": 1, "duplicate": 0, "late": 0, "orphan": 0, "dead": 1}


def test_duplicates_and_conflicts() -> None:
    first, other = click(1, 1, "item-1", at_s=30), click(1, 1, "item-2", at_s=20)
    result = run(Log.of([send(impression(1)), send(impression(1)), send(first), send(first), send(other, 30_000)]))
    assert result.outcomes["duplicate"] == 3
    assert result.join.counters["conflicts"] == 1
    assert last_session(result).column("clicks").tolist() == [0, 0, 1], "of one id, the least time stays"


def test_poison_between_good_records_becomes_dead_letters() -> None:
    """S11 and S12 on the join: every bad record is one dead letter with its bytes, and good ones join."""
    log = Log()
    poison: list[bytes | None] = [b"", None, b"\xff", b"{", b'{"a": NaN}', b"[" * 9_000, b"x" * 100_000, b"{}"]
    client = CLIENTS[0].encode()
    for bad in poison:
        log.append(topics.IMPRESSIONS, client, bad, START_TS)
    log.append(topics.IMPRESSIONS, client, events.encode(impression(1)), START_TS)
    log.append(topics.TICKS, b"1", b"no tick", START_TS)
    join, outputs = Tables().join(), Outputs()
    outputs.take(join.apply(log.records[topics.IMPRESSIONS]))
    outputs.take(join.apply(log.records[topics.TICKS]))
    letters = [record for record in outputs.records if record.topic == topics.DEAD_LETTERS]
    assert [dict(letter.headers)["offset"] for letter in letters[:-1]] == [str(n).encode() for n in range(len(poison))]
    assert letters[0].value == b""
    large = letters[6]
    assert len(large.value or b"") == 1_024
    assert len(dict(large.headers)["sha256"]) == 64
    assert join.open_sessions == 1
    assert join.counters["dead"] == len(poison)
    assert join.counters["produced"] == len(poison) + 1


def test_too_many_orphans_hold_training() -> None:
    happened: list[Event] = [impression(1)]
    happened += [click(number, 99, "item-1", client=CLIENTS[number % 4], at_s=1) for number in range(300)]
    assert any("join_rate" in report.hold for report in run_events(happened).outputs.progress())


def test_a_record_that_raises_an_unexpected_error_is_one_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are not counted as produced units: the record has one outcome."""
    order = send(purchase(1, 1, ["item-1", "item-2"]))
    log = Log()
    log.append(order.topic, CLIENTS[0].encode(), order.value, order.arrival_ts)
    monkeypatch.setattr("stream.join.orders.Orders.join", lambda *_, **__: 1 / 0)
    join, outputs = Tables().join(), Outputs()
    outputs.take(join.apply(log.records[topics.CONVERSIONS]))
    assert [reason for reason, _ in outputs.dead_letters(topics.DEAD_LETTERS)] == ["internal"]
    assert (join.counters["produced"], join.counters["dead"]) == (1, 1)
