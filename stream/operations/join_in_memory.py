"""Recorded events through the join in this process, without a broker: the sessions of a log in one call."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stream.broker.partitioner import partition_of
from stream.join.engine import Join
from stream.join.settings import JoinSettings
from stream.operations.replay import FINAL_STEP_MS, SETTLE_MS, TICK_MS, Replayed
from stream.schemas import session, topics
from stream.schemas.events import Tick, encode

_PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record of a partition that is held in memory."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True, kw_only=True)
class Joined:
    """Output of the joins of all partitions: the newest revision per query, and summed counters.

    Attributes:
        num_unjoined: Events that are in no session.
        num_dead: Events that could not be read.
        num_open: Sessions and events whose windows are not over.
    """

    sessions: dict[str, session.Session] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    num_unjoined: int = 0
    num_dead: int = 0
    num_open: int = 0


def join_in_memory(events: Iterable[Replayed], *, settle_ms: int = SETTLE_MS) -> Joined:
    """Join events in their order, with the ticks of a replay, through one join per partition.

    Args:
        events: Events in the order of time.
        settle_ms: How far the last ticks jump ahead, so that every session closes.
    """
    log = _Log(_PARTITIONS)
    now_ts = 0
    batch: list[Replayed] = []
    for event in events:
        if now_ts == 0:
            now_ts = event.event_ts
        while event.event_ts >= now_ts + TICK_MS:
            now_ts += TICK_MS
            log.step(now_ts, batch)
            batch = []
        batch.append(event)
    log.step(now_ts + TICK_MS, batch)
    # Several, as a topic counts as quiet only after it has been so for some time of the clock.
    for number in range(3):
        log.step(now_ts + settle_ms + number * FINAL_STEP_MS, [])
    return log.finish()


class _Log:
    """The partitions, their joins, and what these have put out."""

    def __init__(self, partitions: int) -> None:
        # One clock stamped all events of a recorded log.
        settings = JoinSettings(ticks="driver", clock_tolerance_s=0)
        self._joins = [
            Join(partition, settings, hot={}, warm={}, progress={}, num_partitions=partitions)
            for partition in range(partitions)
        ]
        self._ends: dict[tuple[str, int], int] = {}
        self._joined = Joined()

    def step(self, now_ts: int, batch: Sequence[Replayed]) -> None:
        """Append the events of a step and its tick, and join them."""
        slices: dict[tuple[str, int], list[LogRecord]] = {}
        for event in batch:
            partition = partition_of(event.key, len(self._joins))
            record = self._append(event.topic, partition, event.key, event.value, event.event_ts)
            slices.setdefault((event.topic, partition), []).append(record)
        for (_, partition), records in slices.items():
            self._apply(partition, records)
        for partition in range(len(self._joins)):
            high = {topic: self._ends.get((topic, partition), 0) for topic in topics.EVENT_TOPICS}
            tick = Tick(partition=partition, seq=0, worker="memory", hw=high, now_ts=now_ts)
            key = str(partition).encode()
            self._apply(partition, [self._append(topics.TICKS, partition, key, encode(tick), now_ts)])

    def finish(self) -> Joined:
        """Return the output with the counters of all partitions."""
        for join in self._joins:
            self._joined.num_open += join.open_sessions + join.waiting_events
            for name, count in join.counters.items():
                self._joined.counters[name] = self._joined.counters.get(name, 0) + count
        return self._joined

    def _append(self, topic: str, partition: int, key: bytes, value: bytes, timestamp: int) -> LogRecord:
        offset = self._ends.get((topic, partition), 0)
        self._ends[topic, partition] = offset + 1
        return LogRecord(topic, partition, offset, timestamp, key, value)

    def _apply(self, partition: int, records: Sequence[LogRecord]) -> None:
        output = self._joins[partition].apply(records)
        for _, raw in output.sessions:
            record = session.decode(raw)
            if isinstance(record, session.Session):
                known = self._joined.sessions.get(record.query_id)
                if known is None or record.revision >= known.revision:
                    self._joined.sessions[record.query_id] = record
        self._joined.num_unjoined += len(output.unjoined)
        self._joined.num_dead += len(output.dead_letters)
