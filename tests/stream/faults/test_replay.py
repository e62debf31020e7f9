"""S8, S9 and S10: records that come twice, in another order, or late."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from abtest.fact_writer import FactWriter
from abtest.page import page_html
from abtest.render import report_markdown
from abtest.report import report
from abtest.store import ExperimentStore
from stream import db
from stream.operations.recount import recount
from stream.operations.verify import verify
from stream.schemas import topics
from stream.schemas.events import Conversion
from stream.schemas.outcomes import open_count
from tests.harness.generated_facts import ARMS
from tests.harness.stores import store_url
from tests.laws.join_log import (
    CLIENTS,
    PARTITION,
    Event,
    Log,
    Outputs,
    Run,
    Tables,
    applied,
    click,
    impression,
    purchase,
    reversal,
    run,
    run_in_order,
)
from tests.stream.faults.fault_log import (
    DAY,
    DAY_MS,
    HOUR_MS,
    START_TS,
    Arrival,
    arrival,
    doubled_sessions,
    log_of,
    num_units,
    on_time,
    shopping,
)

pytestmark = pytest.mark.slow

NUM_QUERIES = 900
END_TS = START_TS + DAY_MS
MAX_SLICE = 64
WINDOW_MS = DAY.click_window_s * 1_000


def seeds(count: int, *, each_run: int) -> pytest.MarkDecorator:
    """Parametrize by seeds: the first of them in each run, the others with `make system`."""
    rest = [pytest.param(seed, marks=pytest.mark.system) for seed in range(each_run, count)]
    return pytest.mark.parametrize("seed", [*range(each_run), *rest])


def _assert_three_zeros(log: Log, result: Run, *, may_be_late: bool = False) -> None:
    """Nothing lost, nothing doubled, nothing divergent, by the batch oracle and by a recount of the topics.

    The oracle knows no time of arrival: it also joins events that came too late for the join.
    """
    records = [*log.events(), *result.outputs.records]
    verdict = verify(records, DAY)
    assert (verdict.missing, verdict.extra, verdict.differing) == (0, 0, 0), verdict
    assert may_be_late or verdict.misplaced_orphans == 0, verdict
    assert doubled_sessions(result) == 0
    counted = recount(records, DAY)
    assert counted.is_closed
    assert counted.open == counted.lost == open_count(result.join.counters) == 0
    assert {name: getattr(counted, name) for name in result.outcomes} == result.outcomes


def _assert_duplicates_change_nothing(clean: Run, log: Log, faulty: Run, *, injected: int) -> None:
    _assert_three_zeros(log, faulty)
    assert faulty.outputs.final() == clean.outputs.final()
    assert faulty.outcomes == clean.outcomes | {
        "produced": clean.outcomes["produced"] + injected,
        "duplicate": injected,
    }
    for topic in (topics.UNJOINED, topics.DEAD_LETTERS):
        assert faulty.outputs.dead_letters(topic).total() == 0


@seeds(5, each_run=1)
def test_s8_a_tenth_doubled_with_random_delays(seed: int) -> None:
    """S8: every tenth event comes again, up to six hours later: the counter says how many, the sessions do not."""
    happened = shopping(NUM_QUERIES, seed=seed)
    random = np.random.default_rng(seed)
    copies = [happened[at] for at in random.choice(len(happened), len(happened) // 10, replace=False)]
    originals = on_time(happened, seed=seed)
    again = [arrival(event, int(random.integers(60_000, 6 * HOUR_MS))) for event in copies]
    clean = run(log_of(originals, end_ts=END_TS), seed=seed, settings=DAY, max_batch=MAX_SLICE)
    log = log_of([*originals, *again], end_ts=END_TS)
    faulty = run(log, seed=seed, settings=DAY, max_batch=MAX_SLICE)
    assert clean.outcomes["joined"] == clean.outcomes["produced"] == num_units(happened)
    _assert_duplicates_change_nothing(clean, log, faulty, injected=num_units(copies))


@seeds(2, each_run=1)
def test_s8_a_whole_partition_appended_again(seed: int) -> None:
    """S8: all records of the partition are written once more, from the first on, while their windows still count."""
    happened = shopping(NUM_QUERIES, seed=seed)
    originals = on_time(happened, seed=seed)
    first_ts = min(each.arrival_ts for each in originals)
    # Eleven hours after the first record, an hour's worth of records a minute.
    again = [
        replace(each, arrival_ts=first_ts + 11 * HOUR_MS + (each.arrival_ts - first_ts) // 60) for each in originals
    ]
    assert max(each.arrival_ts for each in originals) < min(each.arrival_ts for each in again)
    clean = run(log_of(originals, end_ts=END_TS), seed=seed, settings=DAY, max_batch=MAX_SLICE)
    log = log_of([*originals, *again], end_ts=END_TS)
    faulty = run(log, seed=seed, settings=DAY, max_batch=MAX_SLICE)
    _assert_duplicates_change_nothing(clean, log, faulty, injected=num_units(happened))


def test_s8_a_whole_partition_read_again_counts_nothing() -> None:
    """S8: a worker that goes back to offset 0 of every topic reads only records that it has merged."""
    log = log_of(on_time(shopping(NUM_QUERIES, seed=3), seed=3), end_ts=END_TS)
    result = run(log, seed=3, settings=DAY, max_batch=MAX_SLICE)
    view, counters, num_records = result.outputs.final(), dict(result.join.counters), len(result.outputs.sessions())
    for restored in (result.join, result.tables.copy().join(DAY)):
        for name in topics.INPUTS:
            result.outputs.take(restored.apply(log.records[name]))
        assert restored.counters == counters
    assert result.outputs.final() == view
    assert len(result.outputs.sessions()) == num_records


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_s8_report_bytes_equal_the_clean_runs(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """S8: doubled events, a partition appended again, and the session log itself written twice: the same report."""
    happened = shopping(NUM_QUERIES, seed=8)
    originals = on_time(happened, seed=8)
    random = np.random.default_rng(8)
    again = [arrival(event, int(random.integers(60_000, 12 * HOUR_MS))) for event in happened if random.random() < 0.1]
    first_ts = min(each.arrival_ts for each in originals)
    whole = [
        replace(each, arrival_ts=first_ts + 11 * HOUR_MS + (each.arrival_ts - first_ts) // 60) for each in originals
    ]
    reports = []
    for name, arrivals in (("clean", originals), ("faulty", [*originals, *again, *whole])):
        result = run(log_of(arrivals, end_ts=END_TS), seed=8, settings=DAY, max_batch=MAX_SLICE)
        emitted = [record for record in result.outputs.records if record.topic == topics.SESSIONS]
        if name == "faulty":
            last = len(result.outputs.records)
            emitted += [replace(record, offset=last + at) for at, record in enumerate(emitted)]
        (tmp_path / name).mkdir()
        engine = db.create(store_url(kind, tmp_path / name, request))
        try:
            ExperimentStore(engine).create(key="first", arms=ARMS, now_ts=0)
            writer = FactWriter(engine)
            writer.open({(topics.SESSIONS, PARTITION): 0})
            for start in range(0, len(emitted), 500):
                writer.apply(emitted[start : start + 500])
            found = report(engine, "first")
            reached = found.result("sessions_per_client", "treatment")
            assert reached.n_control + reached.n == len({event.client_id for event in happened})
            reports.append((report_markdown(found).encode(), page_html(found).encode()))
        finally:
            engine.dispose()
    assert reports[0] == reports[1]


@seeds(5, each_run=2)
def test_s9_every_event_shuffled_within_the_lateness(seed: int) -> None:
    """S9: random delays reorder all events, none beyond the lateness: three zeros, and the ordered run's sessions."""
    happened = shopping(NUM_QUERIES, seed=seed)
    ordered = log_of([arrival(event) for event in happened], end_ts=END_TS)
    shuffled = log_of(on_time(happened, seed=seed + 100), end_ts=END_TS)
    moved = [
        number
        for name in topics.EVENT_TOPICS
        for number, (one, other) in enumerate(zip(ordered.records[name], shuffled.records[name], strict=True))
        if one.value != other.value
    ]
    assert len(moved) > len(happened) // 2, "hardly anything was shuffled"
    calm = run(ordered, seed=seed, settings=DAY, max_batch=MAX_SLICE)
    # Record by record the watermark is as far as it gets; in micro-batches the topics run ahead of each other.
    for result in (run_in_order(shuffled, DAY), run(shuffled, seed=seed, settings=DAY, max_batch=MAX_SLICE)):
        _assert_three_zeros(shuffled, result)
        assert result.outcomes["joined"] == result.outcomes["produced"] == num_units(happened)
        assert result.outputs.final() == calm.outputs.final()


def _arrives_at(watermark_ts: int, before: list[Event], late: Event) -> tuple[Log, Run]:
    """Run a join whose watermarks stand exactly at a time when `late` arrives; other clients move them there."""
    edge_ts = watermark_ts + DAY.lateness_s * 1_000
    movers: list[Event] = [impression(99, client=CLIENTS[3]), click(99, 99, "item-1", client=CLIENTS[3])]
    movers.append(purchase(99, 99, ["item-1"], client=CLIENTS[3]))
    for mover in movers:
        mover.event_ts = edge_ts
    log, tables, outputs = Log(), Tables(), Outputs()
    join = tables.join(DAY)
    read = dict.fromkeys(topics.INPUTS, 0)

    def take(events: list[Event], arrival_ts: int) -> None:
        log.tick(arrival_ts, len(log.records[topics.TICKS]))
        for event in events:
            sent = arrival(event)
            log.append(sent.topic, sent.key, sent.value, arrival_ts)
        # The tick first, so that no event seems to lie in the future; impressions before the events that refer to them.
        for name in (topics.TICKS, *topics.EVENT_TOPICS):
            if log.records[name][read[name] :]:
                outputs.take(applied(join, log.records[name][read[name] :]))
            read[name] = len(log.records[name])

    take(before, max((event.event_ts for event in before), default=START_TS))
    take(movers, edge_ts)
    assert join.watermark_ts == watermark_ts
    take([late], edge_ts)
    for later_ms in (61_000, HOUR_MS, HOUR_MS + 61_000, 4 * DAY_MS, 4 * DAY_MS + 61_000):
        take([], edge_ts + later_ms)
    return log, Run(join, tables, outputs)


_LIST = impression(1, client=CLIENTS[0])
_CLICK = click(1, 1, "item-1", client=CLIENTS[0], at_s=100)
_ORDER = purchase(1, 1, ["item-1"], client=CLIENTS[0], at_s=200)
_CLOSE_TS = START_TS + WINDOW_MS + DAY.clock_tolerance_ms
# A row outlives its window by the slack, and is deleted when no event of its life can arrive any more.
_SLACK_MS = 2 * DAY.slack_ms
_ATTRIBUTED_TS = START_TS + DAY.attribution_s * 1_000 + _SLACK_MS
_REFUNDABLE_TS = _ORDER.event_ts + DAY.refund_s * 1_000 + _SLACK_MS


@pytest.mark.parametrize("past_ms", [-1, 1])
@pytest.mark.parametrize(
    ("end_ts", "before", "late", "reason"),
    [
        pytest.param(_CLOSE_TS, [_LIST], _CLICK, "too_late", id="click"),
        pytest.param(_CLOSE_TS, [], _LIST, "too_late", id="impression"),
        pytest.param(_CLOSE_TS, [_LIST], _ORDER, "too_late", id="order of an unclicked list"),
        pytest.param(
            _ATTRIBUTED_TS,
            [_LIST, _CLICK],
            purchase(2, None, ["item-1"], client=CLIENTS[0], at_s=DAY.attribution_s - 60),
            "no_click",
            id="order by last click",
        ),
        pytest.param(
            _REFUNDABLE_TS,
            [_LIST, _CLICK, _ORDER],
            reversal(_ORDER, 1, after_s=DAY.refund_s - 60),
            "no_link",
            id="refund",
        ),
    ],
)
def test_s10_a_millisecond_before_and_after_the_end_of_the_window(
    end_ts: int, before: list[Event], late: Event, reason: str, past_ms: int
) -> None:
    """S10: the watermark is 1 ms before, or 1 ms past, the end of the event's window when the event arrives.

    For orders and refunds the end is when the rows that they look for expire.
    """
    log, result = _arrives_at(end_ts + past_ms, before, late)
    headers = [dict(record.headers) for record in result.outputs.records if record.topic == topics.UNJOINED]
    assert [each["reason"].decode() for each in headers] == ([] if past_ms < 0 else [reason])
    counted = recount([*log.events(), *result.outputs.records], DAY)
    assert counted.is_closed
    assert (counted.joined, counted.late + counted.orphan) == (
        (counted.produced, 0) if past_ms < 0 else (counted.produced - 1, 1)
    )
    assert {name: getattr(counted, name) for name in result.outcomes} == result.outcomes


@seeds(3, each_run=1)
def test_s10_conversions_days_late(seed: int) -> None:
    """S10: every other order and refund arrives one to nine days late: each unit has exactly one outcome."""
    happened = shopping(NUM_QUERIES, seed=seed)
    random = np.random.default_rng(seed)
    arrivals: list[Arrival] = []
    late: set[str] = set()
    for sent, event in zip(on_time(happened, seed=seed), happened, strict=True):
        is_late = isinstance(event, Conversion) and random.random() < 0.5
        if isinstance(event, Conversion) and is_late:
            late.add(event.transaction_id)
        days = int(random.integers(DAY_MS, 9 * DAY_MS)) if is_late else 0
        arrivals.append(replace(sent, arrival_ts=sent.arrival_ts + days))
    assert len(late) > 100
    # A refund on time, too, joins nothing if its purchase is late.
    num_exposed = sum(isinstance(event, Conversion) and event.transaction_id in late for event in happened)
    log = log_of(arrivals, end_ts=START_TS + 12 * DAY_MS)
    # As under a live clock: an order that arrives days late is read days late.
    result = run_in_order(log, DAY)
    _assert_three_zeros(log, result, may_be_late=True)
    assert result.outcomes["produced"] == num_units(happened)
    diverted = result.outcomes["late"] + result.outcomes["orphan"]
    assert result.outputs.dead_letters(topics.UNJOINED).total() == diverted
    assert 0 < diverted < num_exposed


def test_s10_with_a_week_of_attribution_orders_of_days_later_join() -> None:
    """S10: an order that happens, and arrives, six days after its list joins under the seven-day option."""
    week = replace(DAY, attribution_s=604_800, refund_s=604_800)
    happened: list[Event] = [_LIST, _CLICK, purchase(1, None, ["item-1"], client=CLIENTS[0], at_s=6 * 86_400)]
    result = run(log_of([arrival(event) for event in happened], end_ts=START_TS + 8 * DAY_MS), settings=week)
    assert result.outcomes["joined"] == result.outcomes["produced"] == 3
    (_, last) = result.outputs.sessions()
    assert [line.action for line in last.lines] == ["purchase"]
