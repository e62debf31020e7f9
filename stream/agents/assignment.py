"""The partitions that a worker owns between two rebalances, with the join of each; knows no Faust.

Source: docs/stream.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stream.agents import log_check
from stream.agents.log_check import LogFingerprint
from stream.join.engine import Join
from stream.join.output import MicroBatchOutput
from stream.join.settings import JoinSettings
from stream.schemas import topics
from stream.schemas.events import Tick
from stream.schemas.records import Record

Input = tuple[str, int]
"""Topic and partition."""

Rows = MutableMapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Fetched:
    """The progress of the consumer in one input.

    Attributes:
        records_end: Offset after the newest record that was fetched.
        position: Offset of the next fetch. The offsets between the two belong to transaction markers and aborted
            records.
    """

    records_end: int
    position: int


CheckLog = Callable[[Mapping[int, LogFingerprint], Mapping[Input, int]], Awaitable[None]]
"""Check that the log holds the records with these fingerprints, and the offsets from which inputs are read."""


class Counts(Protocol):
    """Receiver of the gains of the joins' counters."""

    def count(self, counters: Mapping[str, int], seen: dict[str, int]) -> None:
        """Add the gains of `counters` since `seen`, and record them there."""


class Assignment:
    """The partitions of one generation, and all that the worker knows about them.

    A worker makes one when the state stores are recovered, opens it when the log is checked, and drops it as a whole
    when the next rebalance begins. Work that outlives its assignment finds it closed.

    Attributes:
        generation: Generation of the consumer group.
        partitions: The owned partitions.
        joins: Join of each partition, once the assignment is open.
        is_open: Whether micro-batches may be applied.
        is_closed: Whether the assignment has ended.
    """

    def __init__(
        self,
        generation: int,
        stores: Mapping[int, tuple[Rows, Rows, Rows]],
        starts: Mapping[Input, int],
        *,
        settings: JoinSettings,
        num_partitions: int,
        check_log: CheckLog,
    ) -> None:
        """Take over recovered state stores.

        Args:
            generation: Generation of the consumer group.
            stores: Hot, warm and progress store of each owned partition.
            starts: Offset from which each input is read.
            settings: Settings of the joins.
            num_partitions: Partition count of the topics.
            check_log: See `CheckLog`.
        """
        self.generation = generation
        self.partitions = sorted(stores)
        self.joins: dict[int, Join] = {}
        self.is_open = False
        self.is_closed = False
        self._stores = stores
        self._starts = {each: offset for each, offset in starts.items() if each[1] in stores}
        self._settings = settings
        self._num_partitions = num_partitions
        self._check_log = check_log
        self._fingerprints = {
            partition: log_check.unpack(progress.get(log_check.KEY)) for partition, (_, _, progress) in stores.items()
        }
        self._positions: dict[Input, int] = {}
        self._ends: dict[Input, int] = {}
        self._high_watermarks: dict[Input, int] = {}
        self._fetched: dict[Input, Fetched] = {}
        self._read: dict[Input, int] = {}
        self._paused: dict[int, frozenset[str]] = {}
        self._seen: dict[int, dict[str, int]] = {}
        self._num_failures: int | None = None

    async def open(self, find_ends: Callable[[], Awaitable[Mapping[Input, int]]], num_failures: int) -> bool:
        """Check the log, learn the ends of the inputs, build the joins, and accept micro-batches.

        Joins are built in a thread: a day of closed queries takes seconds, in which heartbeats must go on.

        Args:
            find_ends: Return the end offset of each owned input.
            num_failures: Number of heartbeats that the broker has not answered.

        Returns: whether the assignment is open; False if it was closed meanwhile.

        Raises:
            LostRecordsError: If the log does not hold all merged records.
            BusError: If the broker is unreachable.
        """
        await self.verify(num_failures)
        self._ends = dict(await find_ends())
        joins = {partition: await asyncio.to_thread(self._new_join, partition) for partition in self.partitions}
        if self.is_closed:
            return False
        self.joins = joins
        # Another process has reported the counts so far.
        self._seen = {partition: dict(join.counters) for partition, join in joins.items()}
        # Records that were read before this assignment would look like lag until the first heartbeat.
        self._positions = dict(self._starts)
        self.is_open = True
        return True

    def close(self) -> None:
        """Accept no more micro-batches; those in flight may still be acknowledged."""
        self.is_open = False
        self.is_closed = True

    # -- the log

    async def verify(self, num_failures: int) -> None:
        """Check that the log holds all merged records.

        Raises:
            LostRecordsError: If it does not.
            BusError: If the broker is unreachable.
        """
        self._num_failures = num_failures
        try:
            held = {partition: dict(known) for partition, known in self._fingerprints.items()}
            await self._check_log(held, self._starts)
        except BaseException:
            self._num_failures = None
            raise

    def is_verified(self, num_failures: int) -> bool:
        """Return whether the broker has answered every heartbeat since the last check, and reading went only forward.

        A broker that was away may have lost records, which it does not report.
        """
        return self._num_failures == num_failures

    # -- micro-batches

    def apply(self, records: Sequence[Record]) -> MicroBatchOutput:
        """Apply one micro-batch to the join of its partition."""
        first, last = records[0], records[-1]
        partition = first.partition
        read = (first.topic, partition)
        if first.offset <= self._read.get(read, -1):
            # Faust has gone back to the commit, or aiokafka to the beginning as the log ends before its position.
            self._num_failures = None
        self._read[read] = last.offset
        output = self.joins[partition].apply(records)
        known = self._fingerprints[partition]
        if last.offset > known.get(last.topic, (-1, 0))[0]:
            known[last.topic] = (last.offset, last.timestamp)
            output.progress = {**output.progress, log_check.KEY: log_check.pack(known)}
        return output

    def acknowledge(self, topic: str, partition: int, offset: int) -> None:
        """Record that the records of an input are confirmed up to and including `offset`."""
        self._positions[topic, partition] = offset + 1

    def _new_join(self, partition: int) -> Join:
        hot, warm, progress = self._stores[partition]
        join = Join(
            partition, self._settings, hot=hot, warm=warm, progress=progress, num_partitions=self._num_partitions
        )
        join.seed(self._of_partition(self._starts, partition), self._of_partition(self._ends, partition))
        return join

    def _of_partition(self, offsets: Mapping[Input, int], partition: int) -> dict[str, int]:
        return {topic: offset for (topic, number), offset in offsets.items() if number == partition}

    # -- flow

    def pause(self, partition: int, wanted: frozenset[str]) -> tuple[Collection[Input], Collection[Input]]:
        """Replace the paused topics of a partition; return the inputs to pause and those to resume."""
        paused = self._paused.get(partition, frozenset())
        self._paused[partition] = wanted
        return [(name, partition) for name in wanted - paused], [(name, partition) for name in paused - wanted]

    def paused_topics(self) -> Collection[frozenset[str]]:
        """Return the paused topics of each partition."""
        return self._paused.values()

    def is_paused(self, read: Input) -> bool:
        """Return whether an input is paused."""
        return read[0] in self._paused.get(read[1], frozenset())

    # -- positions

    def set_ends(self, ends: Mapping[Input, int]) -> None:
        """Replace the last stable offsets of the inputs, up to which records can be read."""
        self._ends = dict(ends)

    def set_high_watermarks(self, high_watermarks: Mapping[Input, int]) -> None:
        """Replace the ends of the logs of the inputs, open transactions included."""
        self._high_watermarks = dict(high_watermarks)

    def set_fetched(self, fetched: Mapping[Input, Fetched]) -> None:
        """Replace the progress of the consumer."""
        self._fetched = dict(fetched)

    def lags(self) -> dict[Input, int]:
        """Return the number of offsets of each input that can be read and are not acknowledged."""
        return {each: max(0, end - self.position(each)) for each, end in self._ends.items()}

    def position(self, read: Input) -> int:
        """Return the next offset of an input: behind the newest acknowledged record, and behind markers after it."""
        acknowledged, fetched = self._positions.get(read, 0), self._fetched.get(read)
        if fetched is None or acknowledged < fetched.records_end:
            return acknowledged
        return max(acknowledged, fetched.position)

    def tick(self, partition: int, *, seq: int, worker: str) -> Tick:
        """Return a tick that states the progress in each event topic of a partition, and the end of its log."""
        pairs = {name: (name, partition) for name in topics.EVENT_TOPICS}
        ends = {name: self._high_watermarks.get(pair, 0) for name, pair in pairs.items()}
        fetched = {name: self._fetched[pair] for name, pair in pairs.items() if pair in self._fetched}
        return Tick(
            partition=partition,
            seq=seq,
            worker=worker,
            pos={name: self.position(pair) for name, pair in pairs.items()},
            hw=ends,
            tail={
                name: each.records_end
                for name, each in fetched.items()
                if each.records_end < ends[name] <= each.position
            },
        )

    def report(self, metrics: Counts) -> None:
        """Add the gains of all counters to the metrics."""
        for partition, join in self.joins.items():
            metrics.count(join.counters, self._seen[partition])
