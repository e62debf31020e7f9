"""An in-process stand-in for topics: a log per topic and partition, and joins that read it step by step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stream.broker.partitioner import partition_of
from stream.join import Join, JoinSettings
from stream.operations.replay import SETTLE_MS, TICK_MS, Replayed
from stream.schemas import session, topics
from stream.schemas.events import Tick, encode


@dataclass(frozen=True, slots=True)
class LogRecord:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True)
class Joined:
    """Output of the joins of all partitions: the newest revision per query, and summed counters."""

    sessions: dict[str, session.Session] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    num_unjoined: int = 0
    num_dead: int = 0
    open_sessions: int = 0


def join_in_process(events: Iterable[Replayed], *, partitions: int = 4, settle_ms: int = SETTLE_MS) -> Joined:
    """Feed events, in their order, with a driver's ticks, through one pure join per partition."""
    settings = JoinSettings(ticks="driver")
    joins = [Join(p, settings, {}, {}, {}, partitions) for p in range(partitions)]
    ends: dict[tuple[str, int], int] = {}
    joined = Joined()

    def append(topic: str, partition: int, key: bytes, value: bytes, timestamp: int) -> LogRecord:
        offset = ends.get((topic, partition), 0)
        ends[topic, partition] = offset + 1
        return LogRecord(topic, partition, offset, timestamp, key, value)

    def apply(partition: int, records: Sequence[LogRecord]) -> None:
        effects = joins[partition].apply(records)
        for _, raw in effects.sessions:
            record = session.decode(raw)
            if isinstance(record, session.Session):
                known = joined.sessions.get(record.query_id)
                if known is None or record.revision >= known.revision:
                    joined.sessions[record.query_id] = record
        joined.num_unjoined += len(effects.unjoined)
        joined.num_dead += len(effects.dead_letters)

    def step(now_ts: int, batch: Sequence[Replayed]) -> None:
        slices: dict[tuple[str, int], list[LogRecord]] = {}
        for event in batch:
            partition = partition_of(event.key, partitions)
            record = append(event.topic, partition, event.key, event.value, event.event_ts)
            slices.setdefault((event.topic, partition), []).append(record)
        for (_, partition), records in slices.items():
            apply(partition, records)
        for partition in range(partitions):
            high = {topic: ends.get((topic, partition), 0) for topic in topics.EVENT_TOPICS}
            tick = Tick(partition=partition, seq=0, worker="test", hw=high, now_ts=now_ts)
            key = str(partition).encode()
            apply(partition, [append(topics.TICKS, partition, key, encode(tick), now_ts)])

    now_ts = 0
    batch: list[Replayed] = []
    for event in events:
        if now_ts == 0:
            now_ts = event.event_ts
        while event.event_ts >= now_ts + TICK_MS:
            now_ts += TICK_MS
            step(now_ts, batch)
            batch = []
        batch.append(event)
    step(now_ts + TICK_MS, batch)
    for number in range(3):
        step(now_ts + settle_ms + number * 60_000, [])
    for join in joins:
        joined.open_sessions += join.open_sessions + join.waiting_events
        for name, count in join.counters.items():
            joined.counters[name] = joined.counters.get(name, 0) + count
    return joined
