"""Sink of the `sessions` topic: read batches, write them as facts, and retry while the database is unreachable.

Source: docs/experiments.md.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event

from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy import Engine

from abtest.fact_writer import REFUND_S, Applied, FactWriter, Partition
from stream.backoff import Backoff
from stream.broker.offsets import beginning_offsets, end_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import BusError, FencedError, StoreError
from stream.failpoints import Failpoint, no_failpoint
from stream.schemas import topics
from stream.schemas.records import Record

LAG_EVERY_S = 5.0
_log = logging.getLogger(__name__)


class SinkMetrics:
    """Prometheus metrics of the sink."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sessions = Counter(
            "shelfwise_sink_sessions", "Session records applied to the database.", registry=registry
        )
        self.written = Counter(
            "shelfwise_sink_rows_written", "Facts inserted or changed in the database.", registry=registry
        )
        self.refused = Counter(
            "shelfwise_sink_refused", "Records skipped because they cannot be decoded.", registry=registry
        )
        self.retries = Counter(
            "shelfwise_sink_retries", "Retries of batches that the database refused.", registry=registry
        )
        self.lag = Gauge(
            "shelfwise_sink_lag_offsets",
            "Records of the topic that are not written yet.",
            ["partition"],
            registry=registry,
        )

    def count(self, applied: Applied) -> None:
        """Count one applied batch."""
        self.sessions.inc(applied.num_sessions)
        self.written.inc(applied.num_written)
        self.refused.inc(applied.num_refused)


@dataclass(slots=True)
class Readiness:
    """Readiness of the sink, written by its loop and read by the threads of the probe server.

    Attributes:
        database: Reason why the database does not take facts, or None.
        broker: Reason why the broker does not answer, or None.
    """

    database: str | None = "the position in the topic has not been read from the database yet"
    broker: str | None = None

    def why_not_ready(self) -> str | None:
        """Return None if facts are being written, else the reason why not."""
        return self.database or self.broker


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts of one run of the sink."""

    num_sessions: int
    num_written: int
    num_refused: int


def run(
    broker: Broker,
    engine: Engine,
    stop: Event,
    *,
    random: Callable[[], float],
    monotonic_s: Callable[[], float] = time.monotonic,
    metrics: SinkMetrics | None = None,
    readiness: Readiness | None = None,
    refund_s: int = REFUND_S,
    until_end: bool = False,
    max_records: int = 2_000,
    failpoint: Failpoint = no_failpoint,
) -> Totals:
    """Apply the `sessions` topic to the database until `stop` is set.

    Args:
        broker: Broker of the topic.
        engine: A database with the newest schema.
        stop: Set by a signal handler; the current batch is finished first.
        random: Source of uniform numbers in [0, 1) for the jitter of retries.
        monotonic_s: Monotonic clock, which times the measurement of the lag only.
        metrics: Counters and gauges of the sink.
        readiness: Updated as the database and the broker answer or fail.
        refund_s: Refund window of the join.
        until_end: Whether to return at the end that the topic has at the call.
        max_records: Records of the largest batch.
        failpoint: Called with the name of each step of a batch, for crash tests.

    Raises:
        FencedError: If another sink writes to the database.
        BusError: If the broker is unreachable, the log does not hold the stored offset, or records up to an end that is
            awaited do not come for a minute.
    """
    counts = metrics or SinkMetrics(CollectorRegistry())
    ready = readiness or Readiness()
    writer = FactWriter(engine, refund_s=refund_s, failpoint=failpoint)
    positions = writer.open(beginning_offsets(broker, [topics.SESSIONS]))
    end = end_offsets(broker, [topics.SESSIONS])
    _check_range(broker, positions, end)
    ready.database = None
    total = Totals(num_sessions=0, num_written=0, num_refused=0)
    lag_due_s = monotonic_s()
    with Reader(broker, positions, max_records=max_records) as reader:
        polls = reader.polls()
        while not stop.is_set() and not (until_end and _reached(writer.positions, end)):
            records = next(polls) if until_end else reader.poll()
            if records:
                applied = _apply(writer, records, stop=stop, backoff=Backoff(random=random), counts=counts, ready=ready)
                if applied is None:
                    break
                counts.count(applied)
                total = Totals(
                    num_sessions=total.num_sessions + applied.num_sessions,
                    num_written=total.num_written + applied.num_written,
                    num_refused=total.num_refused + applied.num_refused,
                )
            if monotonic_s() >= lag_due_s:
                ready.broker = _measure_lag(broker, writer.positions, counts)
                lag_due_s = monotonic_s() + LAG_EVERY_S
    return total


def _apply(
    writer: FactWriter,
    records: Sequence[Record],
    *,
    stop: Event,
    backoff: Backoff,
    counts: SinkMetrics,
    ready: Readiness,
) -> Applied | None:
    """Apply a batch, with retries while the database fails; return None if stopped before it was applied."""
    retry = False
    while True:
        try:
            applied = writer.apply(records, retry=retry)
        except FencedError:
            raise
        except StoreError as error:
            wait_s, retry = backoff.next_s(), True
            ready.database = str(error)
            counts.retries.inc()
            _log.warning("%s; retrying in %.1f s", error, wait_s)
        else:
            ready.database = None
            return applied
        if stop.wait(wait_s):
            return None


def _check_range(broker: Broker, positions: dict[Partition, int], end: dict[Partition, int]) -> None:
    beginning = beginning_offsets(broker, [topics.SESSIONS])
    for (topic, partition), offset in positions.items():
        if not beginning[topic, partition] <= offset <= end[topic, partition]:
            raise BusError(
                f"{topic}/{partition}: the facts end at offset {offset}, the log on {broker.bootstrap} holds offsets "
                f"{beginning[topic, partition]} to {end[topic, partition]}; records are lost, or the database belongs "
                "to another broker"
            )


def _reached(positions: dict[Partition, int], end: dict[Partition, int]) -> bool:
    return all(positions[partition] >= offset for partition, offset in end.items())


def _measure_lag(broker: Broker, positions: dict[Partition, int], counts: SinkMetrics) -> str | None:
    """Measure the lag; return None, or the reason why it cannot be measured."""
    try:
        end = end_offsets(broker, [topics.SESSIONS])
    except BusError as error:
        _log.warning("the lag cannot be measured: %s", error)
        return str(error)
    for (topic, partition), offset in end.items():
        counts.lag.labels(partition=str(partition)).set(max(0, offset - positions.get((topic, partition), 0)))
    return None
