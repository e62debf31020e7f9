"""What becomes of each kind of event, with hand-made logs."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from stream.join import JoinSettings
from stream.schemas import events, session, topics
from stream.schemas.session import Progress
from tests.laws.join_log import (
    CLIENTS,
    PARTITION,
    SETTINGS,
    START_TS,
    Event,
    Log,
    Outputs,
    Run,
    Tables,
    click,
    impression,
    purchase,
    reversal,
    run,
    run_in_order,
    send,
)

WINDOW_S = SETTINGS.click_window_s


def _run(happened: Sequence[Event], settings: JoinSettings = SETTINGS) -> Run:
    return run(Log.of((send(event) for event in happened), settings=settings), settings=settings)


def _reasons(result: Run, topic: str = topics.UNJOINED) -> list[str]:
    return sorted(reason for reason, _ in result.outputs.letters(topic).elements())


def _last(result: Run, query: str = "q1") -> session.Session:
    return [content for content in result.outputs.sessions() if content.query_id == query][-1]


def test_a_clicked_list_closes_once_with_its_click() -> None:
    result = _run([impression(1), click(1, 1, "item-1", at_s=30)])
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
    (closed,) = _run([impression(1)]).outputs.sessions()
    assert closed.events == []
    assert closed.lines == []
    assert closed.column("clicks").tolist() == [0, 0, 0]
    assert closed.column("changed").tolist() == []


def test_later_events_of_a_clicked_session_are_revisions() -> None:
    order = purchase(1, 1, ["item-2"], at_s=WINDOW_S + 900)
    result = _run(
        [
            impression(1),
            click(1, 1, "item-1", at_s=30),
            click(2, 1, "item-2", at_s=WINDOW_S + 500),
            order,
            reversal(order, 1, after_s=3_000),
        ]
    )
    revisions = result.outputs.sessions()
    assert [(s.revision, s.reason) for s in revisions] == [(0, "close"), (1, "click"), (2, "conversion"), (3, "refund")]
    assert [s.column("changed").tolist() for s in revisions] == [[1], [2], [2], [2]]
    last = revisions[-1]
    assert last.column("gross_minor").tolist() == [0, 0, 500]
    assert last.column("refund_minor").tolist() == [0, 0, 500]
    assert [line.action for line in last.lines] == ["purchase", "refund"]
    assert len({s.label_key for s in revisions}) == 4


def test_a_first_click_after_the_window_is_too_late() -> None:
    result = _run([impression(1), click(1, 1, "item-1", at_s=WINDOW_S)])
    assert _reasons(result) == ["too_late"]
    assert result.outcomes["late"] == 1
    assert _last(result).column("clicks").tolist() == [0, 0, 0]


def test_the_last_millisecond_of_the_window_counts() -> None:
    result = _run([impression(1), click(1, 1, "item-1", at_s=WINDOW_S - 1, at_ms=999)])
    assert result.outcomes["joined"] == 2


@pytest.mark.parametrize(("past_ms", "reasons"), [(-1, []), (1, ["too_late"])])
def test_arrival_around_the_close_decides(past_ms: int, reasons: list[str]) -> None:
    """The watermark is 1 ms before, and 1 ms past, the end of the window when the click arrives (S10)."""
    close_ts = START_TS + WINDOW_S * 1_000
    edge_ts = close_ts + SETTINGS.lateness_s * 1_000 + past_ms
    other = CLIENTS[1]
    log, join, outputs = Log(), Tables().join(), Outputs()
    log.tick(edge_ts, 0)
    mover = impression(2, client=other)
    mover.event_ts = edge_ts
    pusher = click(2, 2, "item-1", client=other)
    pusher.event_ts = edge_ts
    late = click(1, 1, "item-1", at_s=100)
    for event in (impression(1), mover, pusher, late):
        sent = send(event)
        log.append(sent.topic, event.client_id.encode(), sent.value, edge_ts)
    clicks = log.records[topics.CLICKS]
    for piece in (log.records[topics.TICKS], log.records[topics.IMPRESSIONS], clicks[:1]):
        outputs.take(join.apply(piece))
    assert join.watermark_ts == close_ts + past_ms
    outputs.take(join.apply(clicks[1:]))
    for seq, later_ts in enumerate((100_000, 2_000_000, 2_100_000), start=1):
        log.tick(edge_ts + later_ts, seq)
        outputs.take(join.apply(log.records[topics.TICKS][-1:]))
    assert [reason for reason, _ in outputs.letters(topics.UNJOINED)] == reasons
    assert join.counters["joined"] + join.counters.get("late", 0) == join.counters["produced"]


@pytest.mark.parametrize(
    ("reason", "happened"),
    [
        ("no_impression", [click(1, 7, "item-1")]),
        ("not_in_list", [impression(1), click(1, 1, "item-5", at_s=5)]),
        ("no_link", [impression(1), click(1, None, "item-5", at_s=5)]),
        ("no_link", [impression(1), click(1, 1, "item-1", client=CLIENTS[1], at_s=5)]),
        ("no_click", [impression(1), purchase(1, None, ["item-1"], at_s=5)]),
        ("no_impression", [purchase(1, 7, ["item-1"], at_s=5)]),
        ("too_late", [impression(1), purchase(1, 1, ["item-1"], at_s=WINDOW_S + 5)]),
        ("no_link", [reversal(purchase(1, 1, ["item-1"]), 1, after_s=5)]),
        (
            "too_late",
            [impression(1), click(1, 1, "item-1", at_s=5), click(2, 1, "item-1", at_s=SETTINGS.attribution_s + 1)],
        ),
        (
            "not_in_list",
            [impression(1), click(1, 1, "item-1", at_s=5), purchase(1, 1, ["item-5"], at_s=50)],
        ),
    ],
)
def test_what_does_not_join_has_a_reason(reason: str, happened: list[Event]) -> None:
    result = _run(happened)
    assert _reasons(result) == [reason]
    outcomes = result.outcomes
    assert outcomes["produced"] == sum(outcomes[name] for name in ("joined", "late", "orphan"))


def test_a_refund_past_its_window_is_too_late() -> None:
    order = purchase(1, 1, ["item-1"], at_s=60)
    result = _run([impression(1), order, reversal(order, 1, after_s=SETTINGS.refund_s + 1)])
    assert _reasons(result) == ["too_late"]


def test_a_purchase_without_query_goes_to_the_last_click() -> None:
    result = _run(
        [
            impression(1),
            impression(2, at_s=10),
            click(1, 1, "item-1", at_s=20),
            click(2, 2, "item-1", at_s=30),
            purchase(1, None, ["item-1", "item-2"], at_s=25),
        ]
    )
    assert _reasons(result) == ["no_click"], "nobody clicked item-2"
    assert [line.line_id for line in _last(result).lines] == ["0"], "the click on q2 came after the purchase"
    assert _last(result, "q2").lines == []
    assert [event.link for event in _last(result).events] == ["query_id", "last_click"]


def test_a_click_without_query_goes_to_the_newest_open_list_with_the_item() -> None:
    happened: list[Event] = [
        impression(1, items=["item-1"]),
        impression(2, at_s=10, items=["item-1", "item-2"]),
        impression(3, at_s=20, items=["item-3"]),
        click(1, None, "item-1", at_s=30),
    ]
    result = _run(happened)
    assert [event.link for event in _last(result, "q2").events] == ["inferred"]
    assert result.outcomes["joined"] == 4
    strict = replace(SETTINGS, infer_links=False)
    assert _reasons(_run(happened, strict)) == ["no_link"]


def test_an_event_waits_for_its_impression() -> None:
    log = Log.of([send(impression(1), 200_000), send(click(1, 1, "item-1", at_s=1), 0)])
    result = run(log)
    assert result.outcomes == {"produced": 2, "joined": 2, "duplicate": 0, "late": 0, "orphan": 0, "dead": 0}


def test_duplicates_and_conflicts() -> None:
    first, other = click(1, 1, "item-1", at_s=30), click(1, 1, "item-2", at_s=20)
    result = run(Log.of([send(impression(1)), send(impression(1)), send(first), send(first), send(other, 30_000)]))
    assert result.outcomes["duplicate"] == 3
    assert result.join.counters["conflicts"] == 1
    assert _last(result).column("clicks").tolist() == [0, 0, 1], "of one id, the least time stays"


def test_a_second_list_for_a_query_is_a_dead_letter() -> None:
    conflicting = impression(1)
    conflicting.event_id = "another"
    result = _run([impression(1), conflicting])
    assert _reasons(result, topics.DEAD_LETTERS) == ["conflicting_impression"]
    assert result.outcomes == {"produced": 2, "joined": 1, "duplicate": 0, "late": 0, "orphan": 0, "dead": 1}


def test_a_client_with_too_many_open_events_is_capped() -> None:
    capped = replace(SETTINGS, max_client_events=3)
    clicks: list[Event] = [click(number, 1, "item-1", at_s=number) for number in range(10)]
    result = _run([impression(1), *clicks, impression(2, client=CLIENTS[1])], capped)
    assert _reasons(result, topics.DEAD_LETTERS) == ["hot_key"] * 8
    assert result.outcomes["joined"] == 4


def test_a_list_with_too_many_events_takes_no_more() -> None:
    capped = replace(SETTINGS, max_list_events=3)
    clicks: list[Event] = [click(number, 1, "item-1", at_s=number) for number in range(5)]
    result = _run([impression(1), *clicks, purchase(1, 1, ["item-1"], at_s=9)], capped)
    assert _reasons(result, topics.UNJOINED) == ["evicted"] * 3
    assert result.outcomes == {"produced": 7, "joined": 4, "duplicate": 0, "late": 3, "orphan": 0, "dead": 0}


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
    assert outputs.letters(topics.DEAD_LETTERS).total() == 4
    assert join.counters["misrouted"] == 3
    assert join.counters["future_ts"] == 1
    assert join.open_sessions == 0


def test_poison_between_good_records_is_buried_in_place() -> None:
    """S11 and S12 on the core: every bad record is one letter with its bytes, and good ones join."""
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


def test_one_wrong_clock_does_not_move_the_others() -> None:
    """S13 on the core: clients an hour off and an event ten years ahead change no other client's session."""
    others: list[Event] = [impression(1), click(1, 1, "item-1", at_s=800), purchase(1, 1, ["item-1"], at_s=850)]
    wrong: list[Event] = [
        impression(5, client=CLIENTS[1], at_s=3_600),
        click(5, 5, "item-1", client=CLIENTS[1], at_s=-3_600),
        click(6, 1, "item-1", client=CLIENTS[1], at_s=10 * 365 * 86_400),
    ]
    sent = [send(event) for event in others] + [send(event, START_TS + 5_000 - event.event_ts) for event in wrong]
    result = run(Log.of(sent))
    assert _reasons(result, topics.DEAD_LETTERS) == ["future_ts"]
    assert result.outputs.final()["q1"] == _run(others).outputs.final()["q1"]
    assert result.join.counters["clamped"] >= 1


def test_profiles_hold_the_newest_behaviours() -> None:
    small = replace(SETTINGS, profile_size=2, profile_idle_s=10_000_000)
    happened: list[Event] = [impression(1)]
    happened += [click(number, 1, "item-1", at_s=number) for number in (1, 2, 3)]
    emitted = [r for r in _run(happened, small).outputs.records if r.topic == topics.PROFILES and r.value]
    profile = events.Profile(**json.loads(emitted[-1].value or b""))
    assert [behaviour["event_id"] for behaviour in profile.behaviours] == ["c3", "c2"]  # type: ignore[index]


def test_a_profile_that_was_given_up_does_not_come_back() -> None:
    """Whether its row is deleted already depends on when slices are confirmed; here none ever is."""
    later_s = 3 * SETTINGS.profile_idle_s
    happened: list[Event] = [impression(1), click(1, 1, "item-1", at_s=5)]
    happened += [impression(2, at_s=later_s), click(2, 2, "item-1", at_s=later_s + 5)]
    log, outputs = Log.of([send(event) for event in happened]), Outputs()
    join = Tables().join()
    records = [record for name in topics.INPUTS for record in log.records[name]]
    for record in sorted(records, key=lambda record: record.timestamp):
        outputs.take(join.apply([record]))
    emitted = [r.value for r in outputs.records if r.topic == topics.PROFILES and r.value]
    assert [len(json.loads(value)["behaviours"]) for value in emitted] == [1, 1]


def test_progress_is_reported_with_counters_and_maturity() -> None:
    result = _run([impression(1), click(1, 1, "item-1", at_s=5)])
    records = [session.decode(r.value or b"") for r in result.outputs.records if r.topic == topics.SESSIONS]
    reports = [record for record in records if isinstance(record, Progress)]
    watermarks = [report.watermark_ts for report in reports]
    assert watermarks == sorted(watermarks)
    last = reports[-1]
    assert last.counters == dict(result.join.counters)
    assert last.matured_ts == last.watermark_ts - SETTINGS.attribution_s * 1_000
    assert last.partition == PARTITION


def test_conversions_read_after_the_last_tick_are_reported_and_hold_maturity() -> None:
    log = Log.of([send(event) for event in (impression(1), click(1, 1, "item-1", at_s=5))])
    order = purchase(1, 1, ["item-1"], at_s=30)
    log.append(topics.CONVERSIONS, order.client_id.encode(), send(order).value, order.event_ts)
    for step in range(2):
        log.tick(START_TS + 100_000_000 + step * 60_000, 10_000 + step)
    join, outputs = Tables().join(), Outputs()
    for name in (topics.TICKS, topics.IMPRESSIONS, topics.CLICKS):
        outputs.take(join.apply(log.records[name]))
    before = _reports(outputs)[-1]
    assert before.watermark_ts > START_TS + 2 * SETTINGS.attribution_s * 1_000
    assert before.matured_ts == 0, "an order of these sessions may still be unread"
    outputs.take(join.apply(log.records[topics.CONVERSIONS]))
    last = _reports(outputs)[-1]
    assert last.counters == dict(join.counters)
    assert last.counters["order_lines"] == 1
    assert last.matured_ts == last.watermark_ts - SETTINGS.attribution_s * 1_000
    assert len(_reports(outputs)) == len({(r.watermark_ts, r.matured_ts) for r in _reports(outputs)})


def _reports(outputs: Outputs) -> list[Progress]:
    records = [session.decode(r.value or b"") for r in outputs.records if r.topic == topics.SESSIONS]
    return [record for record in records if isinstance(record, Progress)]


def test_orphans_beyond_the_limit_hold_the_trainer() -> None:
    happened: list[Event] = [impression(1)]
    happened += [click(number, 99, "item-1", client=CLIENTS[number % 4], at_s=1) for number in range(300)]
    records = [session.decode(r.value or b"") for r in _run(happened).outputs.records if r.topic == topics.SESSIONS]
    assert any("join_rate" in record.hold for record in records if isinstance(record, Progress))


def test_sessions_beyond_the_cap_are_evicted() -> None:
    tiny = replace(SETTINGS, warm_max_bytes=2_000)
    happened: list[Event] = []
    for number in range(12):
        happened.append(impression(number, at_s=number))
        happened.append(click(number, number, "item-1", at_s=number + 1))
    happened.append(impression(50, client=CLIENTS[1], at_s=WINDOW_S + 500))  # lets ticks pass before the click
    happened.append(click(99, 0, "item-2", at_s=WINDOW_S + 640))
    result = run_in_order(Log.of((send(event) for event in happened), settings=tiny), tiny)
    assert _reasons(result) == ["evicted"]
    assert result.join.counters["evicted_rows"] > 0


@pytest.mark.parametrize("restarts_after", [topics.IMPRESSIONS, topics.CONVERSIONS, topics.TICKS])
def test_what_an_impression_settled_is_not_settled_again_after_a_restart(restarts_after: str) -> None:
    """An order and its refund arrive before their list: both wait, and the list places both."""
    order = purchase(1, 1, ["item-2"], at_s=60)
    refund = reversal(order, 1, after_s=30)
    refund.query_id = order.query_id
    log = Log.of(send(event) for event in (impression(1), order, refund))
    tables, outputs = Tables(), Outputs()
    join = tables.join()
    for topic in (topics.CONVERSIONS, topics.IMPRESSIONS, topics.TICKS):
        outputs.take(join.apply(log.records[topic]))
        if topic == restarts_after:
            join = tables.join()
    assert join.counters["joined"] == join.counters["produced"] == 3
    assert join.waiting_events == 0
    last = outputs.sessions()[-1]
    assert [line.action for line in last.lines] == ["purchase", "refund"]
