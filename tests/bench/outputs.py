"""Comparison of a contender's output with the truth.

Only on-time lists and clicks count: late ones may be joined or not. An output is repeated if it is there twice
with the same identity (query and revision, or list and click), which sinks can tell; a click is doubled if one list
holds it twice.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from confluent_kafka import Consumer, TopicPartition
from msgspec import Struct
from numpy.typing import NDArray

from stream.broker.settings import Broker
from stream.schemas import topics
from tests.bench.contenders import NAIVE, QUIX, SHELFWISE, Contender
from tests.bench.load import NUM_PARTITIONS, WINDOW_MS, Load

_LATENESS_MS = 60_000


class Output(Struct, frozen=True):
    """One record of an output topic: the list, the clicks it shows, its revision, and the broker's stamp."""

    partition: int
    append_ts: int
    query_id: str
    revision: int
    clicks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Outputs against the truth: shares of on-time records, counts of repeated ones."""

    lists: float
    clicks: float
    num_repeated: int
    num_doubled: int


class _Session(Struct, tag_field="kind", tag="session"):
    query_id: str
    revision: int
    events: list[list[object]]


class _Progress(Struct, tag_field="kind", tag="progress"):
    pass


class _Clicked(Struct):
    event_id: str


class _QuixRow(Struct):
    query_id: str
    click: _Clicked | None = None


class _NaiveRow(Struct):
    query_id: str
    clicks: list[_Clicked]


class _UnlinkedLine(Struct, tag_field="kind", tag="unlinked_line"):
    """An order line, which the comparison leaves out."""


_sessions = msgspec.msgpack.Decoder(_Session | _Progress | _UnlinkedLine)
_quix = msgspec.json.Decoder(_QuixRow)
_naive = msgspec.json.Decoder(_NaiveRow)


def _shelfwise_row(value: bytes) -> tuple[str, int, tuple[str, ...]] | None:
    record = _sessions.decode(value)
    if not isinstance(record, _Session):
        return None
    clicks = tuple(str(event[0]) for event in record.events if event[5] == topics.CLICKS)
    return record.query_id, record.revision, clicks


def _quix_row(value: bytes) -> tuple[str, int, tuple[str, ...]]:
    row = _quix.decode(value)
    return row.query_id, 0, (row.click.event_id,) if row.click is not None else ()


def _naive_row(value: bytes) -> tuple[str, int, tuple[str, ...]]:
    row = _naive.decode(value)
    return row.query_id, 0, tuple(click.event_id for click in row.clicks)


_READERS: dict[str, Callable[[bytes], tuple[str, int, tuple[str, ...]] | None]] = {
    SHELFWISE.name: _shelfwise_row,
    QUIX.name: _quix_row,
    NAIVE.name: _naive_row,
}


def outputs(broker: Broker, contender: Contender) -> Iterator[Output]:
    """Yield the records of a contender's output topic."""
    read = _READERS[contender.name]
    for partition, _, append_ts, value in records(broker, contender.output):
        row = read(value)
        if row is not None:
            yield Output(partition, append_ts, *row)


def records(broker: Broker, topic: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield partition, offset, broker's stamp and value of every record of a topic."""
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "bench-reader", "enable.auto.commit": False}
    )
    try:
        ends: dict[int, int] = {}
        for number in range(NUM_PARTITIONS):
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            if first < end:
                ends[number] = end
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        while ends:
            for message in consumer.consume(10_000, timeout=0.5):
                if message.error() is not None:
                    raise RuntimeError(str(message.error()))
                partition, offset, value = message.partition(), message.offset(), message.value()
                assert partition is not None
                assert offset is not None
                assert value is not None
                yield partition, offset, message.timestamp()[1], value
                if offset + 1 >= ends.get(partition, offset + 2):
                    del ends[partition]
    finally:
        consumer.close()


def judge(load: Load, contender: Contender, found: list[Output]) -> Comparison:
    """Compare the outputs with the truth of their load."""
    truth = load.truth
    lists = {output.query_id for output in found}
    clicks = {click for output in found for click in output.clicks}
    if contender is QUIX:
        twice = Counter((output.query_id, output.clicks) for output in found if output.clicks)
    else:
        twice = Counter((output.query_id, (str(output.revision),)) for output in found)
    return Comparison(
        lists=len(truth.queries.keys() & lists) / len(truth.queries),
        clicks=len(truth.clicks.keys() & clicks) / len(truth.clicks),
        num_repeated=sum(count - 1 for count in twice.values()),
        num_doubled=sum(len(output.clicks) - len(set(output.clicks)) for output in found),
    )


def emit_delays_ms(
    broker: Broker, load: Load, contender: Contender, found: list[Output], handed_over: dict[str, int]
) -> NDArray[np.int64]:
    """Return how long after its cause each output was stored, by the broker's stamps.

    The cause of a session is the record that moved the watermark past its close; of a joined pair, the click, whose
    topic has no such stamp: its time is the time of its handover to the producer.
    """
    if contender is QUIX:
        delays = [o.append_ts - handed_over[o.clicks[0]] for o in found if o.clicks]
        return np.array(delays, dtype=np.int64)
    causes = _causes(broker, load, all_topics=contender is SHELFWISE)
    seen: set[str] = set()
    delays = []
    for output in found:
        if output.revision or output.query_id in seen or output.query_id not in load.truth.queries:
            continue
        seen.add(output.query_id)
        _, shown_ts = load.truth.queries[output.query_id]
        closes_ts = shown_ts + WINDOW_MS + (_LATENESS_MS if contender is SHELFWISE else 0)
        cause_ts = causes[output.partition](closes_ts)
        if cause_ts is not None:
            delays.append(output.append_ts - cause_ts)
    return np.array(delays, dtype=np.int64)


def _causes(broker: Broker, load: Load, *, all_topics: bool) -> dict[int, Callable[[int], int | None]]:
    """Return, by partition, when lists and clicks (or either of them) had come past a time."""
    event_ts: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for arrival in load.arrivals:
        event_ts[arrival.topic, arrival.partition].append(arrival.event_ts if arrival.event_id else 0)
    highest: dict[tuple[str, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    for topic in (topics.IMPRESSIONS, topics.CLICKS):
        stamps: defaultdict[int, list[int]] = defaultdict(list)
        for partition, _, append_ts, _ in records(broker, topic):
            stamps[partition].append(append_ts)
        for partition, stamped in stamps.items():
            times = np.array(event_ts[topic, partition], dtype=np.int64)
            highest[topic, partition] = (np.maximum.accumulate(times), np.array(stamped, dtype=np.int64))

    def cause(partition: int, closes_ts: int) -> int | None:
        found = []
        for topic in (topics.IMPRESSIONS, topics.CLICKS):
            times, stamped = highest[topic, partition]
            at = int(np.searchsorted(times, closes_ts))
            if at < len(times):
                found.append(int(stamped[at]))
            elif all_topics:
                return None
        return (max(found) if all_topics else min(found)) if found else None

    return {number: partial(cause, number) for number in range(NUM_PARTITIONS)}
