"""Faust fed and recovered in micro-batches: one message per partition and up to 512 records.

The only module that knows private parts of Faust and aiokafka, with its parts `aiokafka_records` and `fencing`: they
override methods of pinned releases, and `check_versions` refuses others. Contract tests pin the upstream behaviour:
tests/stream/agents/test_faust_contract.py and test_faust_methods.py.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

import asyncio
import copy
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import IllegalStateError
from faust.tables.recovery import Recovery
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, EventT
from faust.types.transports import ConsumerCallback
from faust.types.tuples import ConsumerMessage, Message

from stream.agents import aiokafka_records, fencing
from stream.agents.assignment import Fetched
from stream.agents.backpressure import ReadAheadBudget, bytes_in_memory
from stream.agents.stores import WarmStore
from stream.errors import ConfigError
from stream.schemas import topics
from stream.schemas.records import Record

BATCH_RECORDS = 512
FETCH_WAIT_MS = 200
FETCH_BYTES = 8 << 20
FETCH_LEAST_BYTES = 1 << 20
_IDLE_S = 0.02
PINNED: Mapping[str, str] = {
    "faust-streaming": "0.15.3",
    "aiokafka": "0.14.0",
    "mode-streaming": "0.7.1",
}

log = logging.getLogger("shelfwise.stream")
# Faust logs each start and stop of a service under the module of its class, as if this program did.
_faust_log = logging.getLogger("faust.services")


def check_versions() -> None:
    """Refuse to run on other releases than those whose private methods are overridden.

    Raises:
        ConfigError: Naming the package, the pinned release and the one found.
    """
    for package, pinned in PINNED.items():
        found = version(package)
        if found != pinned:
            raise ConfigError(f"{package} {found} is installed, the worker overrides private parts of {pinned}")


def install(fence: fencing.MembershipFence, before_revoke: Callable[[], Awaitable[None]]) -> None:
    """Replace classes of Faust and aiokafka in this process; call it before any of their clients is made.

    Args:
        fence: Fence of every producer and group member of this process.
        before_revoke: Finish all micro-batches in flight, before partitions are given back.
    """
    aiokafka_records.install()
    fencing.install(fence)
    attributes = {"before_revoke": staticmethod(before_revoke)}
    driver.Transport.Consumer = type("WorkerConsumer", (MicroBatchConsumer,), attributes)


def micro_batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Cut the records of one partition into micro-batches.

    >>> [len(batch) for batch in micro_batches(range(1100))]
    [512, 512, 76]
    """
    for start in range(0, len(records), BATCH_RECORDS):
        yield records[start : start + BATCH_RECORDS]


class MicroBatchApp(faust.App):
    """Faust app that reports when an assignment is ready: recovered, positioned, and not revoked again.

    Attributes:
        on_ready: Called with the generation of an assignment that is ready.
        read_ahead: Budget of input that is read and not acknowledged.
        clock: Monotonic seconds.
        state_tables: Hot, warm and progress table.
        is_ready: Whether inputs may be read.
        assigned_s: Time at which the tables began to recover for the newest assignment.
    """

    on_ready: Callable[[int], None]
    read_ahead: ReadAheadBudget
    clock: Callable[[], float]
    logger = _faust_log
    state_tables: "Sequence[MicroBatchTable]" = ()
    is_ready = False
    assigned_s: float
    _assignment_count = -1

    def on_rebalance_start(self) -> None:
        """Stop reading inputs; the broker has asked for partitions back."""
        self.is_ready = False
        self.read_ahead.close()
        super().on_rebalance_start()

    def on_assigned(self) -> None:
        """Record the rebalance that the tables recover for, and its time."""
        if self._assignment_count != self.rebalancing_count:
            self._assignment_count = self.rebalancing_count
            self.assigned_s = self.clock()

    def on_rebalance_end(self) -> None:
        """Report readiness, unless another rebalance has overtaken this one."""
        super().on_rebalance_end()
        if self._assignment_count != self.rebalancing_count:
            return
        if not self.is_recovered():
            log.warning("a recovery ended that another rebalance had overtaken")
            return
        self.is_ready = True
        self.read_ahead.open()
        for table in self.state_tables:
            table.is_recovering = False
        self.on_ready(self.consumer_generation_id)

    def is_recovered(self) -> bool:
        """Return whether the changelogs of the owned partitions are read to their ends.

        Faust also reports the end of a recovery that another rebalance has overtaken, when the stores are empty again.
        """
        recovery = self.recovery
        offsets, ends = recovery.active_offsets, recovery.active_highwaters
        changelogs = [TP(name, partition) for name in topics.CHANGELOGS for partition in self.owned_partitions()]
        return all(tp in ends and tp in offsets and offsets[tp] >= ends[tp] for tp in changelogs)

    @property
    def recovery(self) -> Recovery:
        """The service that replays the changelogs."""
        found = self.tables.recovery  # type: ignore[attr-defined]  # missing in Faust's interface type
        assert isinstance(found, Recovery)
        return found

    @property
    def num_recovered(self) -> int:
        """Number of changelog records that were replayed since the start."""
        return sum(table.num_recovered for table in self.state_tables)

    def owned_partitions(self) -> list[int]:
        """Return the partitions that the group has assigned to this worker."""
        return sorted(tp.partition for tp in self.consumer.assignment() if tp.topic == topics.TICKS)

    def starts(self) -> dict[tuple[str, int], int]:
        """Return the offset from which each owned input partition is read: the commit, or the first one."""
        assert isinstance(self.consumer, MicroBatchConsumer)
        return {tp: offset for tp, offset in self.consumer.starts.items()}  # noqa: C416 - a dict of tuples, for mypy

    async def end_offsets(self, partitions: Sequence[int]) -> dict[tuple[str, int], int]:
        """Return the last stable offset of each input topic in `partitions`."""
        # For all at once: each request waits behind a fetch.
        inputs = [TP(name, partition) for partition in partitions for name in topics.INPUTS]
        ends = await self.consumer.highwaters(*inputs) if inputs else {}
        return {TP(*tp): end for tp, end in ends.items()}

    async def high_watermarks(self, partitions: Sequence[int]) -> dict[tuple[str, int], int]:
        """Return the end of the log of each input topic in `partitions`, open transactions included."""
        assert isinstance(self.consumer, MicroBatchConsumer)
        inputs = [TP(name, partition) for partition in partitions for name in topics.INPUTS]
        return {TP(*tp): end for tp, end in (await self.consumer.high_watermarks(inputs)).items()}

    def fetched(self) -> Mapping[tuple[str, int], Fetched]:
        """Return the progress of the consumer in each owned input partition."""
        assert isinstance(self.consumer, MicroBatchConsumer)
        return {TP(*tp): fetched for tp, fetched in self.consumer.fetched.items()}

    def pause(self, inputs: Collection[tuple[str, int]]) -> None:
        """Stop fetching these input partitions."""
        if inputs:
            self.consumer.pause_partitions({TP(*each) for each in inputs})

    def resume(self, inputs: Collection[tuple[str, int]]) -> None:
        """Fetch these input partitions again."""
        if inputs:
            self.consumer.resume_partitions({TP(*each) for each in inputs})

    def stores_of(
        self, partition: int
    ) -> tuple[MutableMapping[bytes, bytes], MutableMapping[bytes, bytes], MutableMapping[bytes, bytes]]:
        """Return the hot, warm and progress store of a partition."""
        hot, warm, progress = (table.store(partition) for table in self.state_tables)
        return hot, warm, progress

    def drop_stores(self) -> None:
        """Close and forget the state stores of all tables."""
        for table in self.state_tables:
            table.drop_stores()


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    logger = _faust_log

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust waits 1.5 s in a fetch, and requests for end offsets wait behind it on the same connection.
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 - Faust has no setting for it
        # At a moderate pace a fetch would bring a few records, and each micro-batch costs writes to several topics.
        consumer._fetch_min_bytes = FETCH_LEAST_BYTES  # noqa: SLF001
        # aiokafka takes up to 50 MiB at a time, and holds it two or three times over while it is parsed.
        consumer._fetch_max_bytes = FETCH_BYTES  # noqa: SLF001
        # Faust couples it to transactions of its own.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer

    async def high_watermarks(self, partitions: Sequence[TP]) -> Mapping[TP, int]:
        """Return the ends of the logs, where a consumer of committed records is told the last stable offsets."""
        ends: Mapping[TP, int] = await self.call_thread(self._high_watermarks, partitions)
        return ends

    async def _high_watermarks(self, partitions: Sequence[TP]) -> Mapping[TP, int]:
        consumer = self._ensure_consumer()
        uncommitted = copy.copy(consumer._fetcher)  # noqa: SLF001 - the level belongs to the fetcher, not to a request
        uncommitted._isolation_level = aiokafka_fetcher.READ_UNCOMMITTED  # noqa: SLF001
        ends: Mapping[TP, int] = await uncommitted.end_offsets(partitions, consumer._request_timeout_ms)  # noqa: SLF001
        return ends

    def position_of(self, tp: TP) -> int | None:
        """Return the offset of the next fetch, or None while it is unknown; any thread may call it."""
        assignment = self._ensure_consumer()._subscription.subscription.assignment  # noqa: SLF001
        state = assignment.state_value(tp) if assignment is not None else None
        position: int | None = state._position if state is not None else None  # noqa: SLF001
        return position


def _message(tp: TP, batch: Sequence[Record], generation: int) -> Message:
    """Return a micro-batch as one message."""
    last = batch[-1]
    return ConsumerMessage(
        topic=tp.topic,
        partition=tp.partition,
        offset=last.offset,
        timestamp=last.timestamp / 1_000,
        timestamp_type=0,
        headers=None,
        key=None,
        value=batch,  # type: ignore[arg-type]  # a micro-batch travels as one value
        checksum=None,
        serialized_value_size=bytes_in_memory(batch),
        tp=tp,
        generation_id=generation,
    )


class MicroBatchConsumer(driver.Consumer):
    """Consumer that yields micro-batches; the offset of a micro-batch is that of its last record.

    Faust's own loop makes two asyncio tasks per message, which the records of a micro-batch share. Its bookkeeping of
    gaps between offsets is replaced, because it would take the inside of a micro-batch for a gap. Acknowledgements
    come strictly in order per partition, so that the newest one is the commit.

    Attributes:
        before_revoke: Finish all micro-batches in flight.
        starts: Offset from which each owned input partition is read.
        fetched: Progress in each owned input partition.
    """

    before_revoke: Callable[[], Awaitable[None]]
    starts: dict[TP, int]
    fetched: dict[TP, Fetched]
    logger = _faust_log

    _num_seeks = 0

    def __init__(self, transport: driver.Transport, callback: ConsumerCallback, *args: Any, **kwargs: Any) -> None:
        """Count each micro-batch of an input that Faust passes on; Faust drops those it has passed on before."""
        app = transport.app
        assert isinstance(app, MicroBatchApp)
        self._read_ahead = app.read_ahead

        async def counted(message: Message) -> None:
            if not self._is_changelog_tp(message.tp):
                self._read_ahead.add(message.serialized_value_size)
            await callback(message)

        super().__init__(transport, counted, *args, **kwargs)

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        self.starts = {}
        self.fetched = {}
        self._dropped: set[TP] = set()
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets, or to the first ones, and keep them in `starts`.

        Faust leaves a partition without a commit where it is, which is past the records that were fetched and dropped
        in a rebalance.
        """
        await super().perform_seek()
        inputs = [tp for tp in self.assignment() if not self._is_changelog_tp(tp)]
        committed = {tp: offset for tp in inputs if (offset := self._read_offset[tp]) is not None}
        fresh = [tp for tp in inputs if tp not in committed]
        first = {TP(*tp): at for tp, at in (await self.earliest_offsets(*fresh)).items()} if fresh else {}
        if first:
            await self.seek_wait(first)
        self.starts = committed | first
        self.fetched = {tp: Fetched(offset, offset) for tp, offset in self.starts.items()}

    async def high_watermarks(self, partitions: Sequence[TP]) -> Mapping[TP, int]:
        """Return the ends of the logs, open transactions included."""
        if not partitions:
            return {}
        thread: _ConsumerThread = self._thread  # type: ignore[assignment]  # made above
        return await thread.high_watermarks(partitions)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Check nothing: the watchdog looks for a standstill.

        Faust would log an error for each changelog partition that is not fetched after its recovery, and for each input
        that is paused or waits for the end of a transaction, several times a minute.
        """

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit the micro-batches in flight, before Faust forgets the acknowledgements."""
        await self.before_revoke()
        await self.commit()
        await super().on_partitions_revoked(revoked)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Ignore gaps: they need no bookkeeping when acknowledgements come in order."""

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        newest = acked[-1]
        acked.clear()
        self._acked_index[tp].clear()
        return newest + 1

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:
        """Fetch only changelogs until the app is ready, and only inputs from then on.

        Faust lets inputs be fetched before it seeks to the commits and before `flow_control.resume`, which empties the
        queues of the agents: records that were fetched in between would be lost (faust-streaming #596). After the
        recovery it goes on to read the changelogs, which this worker itself writes.
        """
        await self._read_ahead.wait_for_room()
        assert isinstance(self.app, MicroBatchApp)
        is_ready = self.app.is_ready
        wanted = {tp for tp in active_partitions or () if self._is_changelog_tp(tp) is not is_ready}
        if not wanted:
            await asyncio.sleep(_IDLE_S)
            return {}
        await self._read_again()
        num_seeks = self._num_seeks
        records: RecordMap = await super()._getmany(wanted, timeout)
        if num_seeks != self._num_seeks:
            # A fetch that overlaps a seek may hold records from before or after it.
            self._drop_changelogs(records)
            return {tp: batch for tp, batch in records.items() if not self._is_changelog_tp(tp)}
        if is_ready:
            self._note_fetched(wanted, records)
        return records

    def _note_fetched(self, wanted: Iterable[TP], records: RecordMap) -> None:
        """Note the positions after a fetch. A fetch may bring no record and move on: markers take offsets, too."""
        thread: _ConsumerThread = self._thread  # type: ignore[assignment]  # made above
        for tp in wanted:
            position = thread.position_of(tp)
            known = self.fetched.get(tp)
            if position is None or known is None:
                continue
            batch = records.get(tp)
            records_end = batch[-1].offset + 1 if batch else known.records_end
            self.fetched[tp] = Fetched(records_end, max(position, records_end))

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek, and have the changelog fetches that overlap with it read again."""
        self._num_seeks += 1
        await super().seek_wait(partitions)
        self._num_seeks += 1

    def _drop_changelogs(self, records: RecordMap) -> None:
        self._dropped.update(tp for tp in records if self._is_changelog_tp(tp))

    async def _read_again(self) -> None:
        """Seek back in changelogs whose fetch was dropped, to the offset up to which they are recovered.

        A recovery waits for ever for records that were fetched and dropped. Records that it reads twice, in order,
        change nothing.
        """
        if not self._dropped:
            return
        dropped, self._dropped = self._dropped, set()
        assert isinstance(self.app, MicroBatchApp)
        recovered = self.app.recovery.active_offsets
        assigned = self.assignment()
        again = {tp: recovered[tp] + 1 for tp in dropped if tp in assigned and recovered.get(tp) is not None}
        if again:
            with suppress(IllegalStateError):
                await super().seek_wait(again)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """Yield the records of the next fetch, a micro-batch at a time, while this generation lasts."""
        records, _ = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        generation = self.app.consumer_generation_id
        if not self.flow_active:
            self._drop_changelogs(records)
            if self.assignment():
                # A partition that is revoked meanwhile needs no seek, and a new assignment seeks after its recovery.
                with suppress(IllegalStateError):
                    await self.perform_seek()
            return
        for tp, batch in records.items():
            # Faust drops here the records of a partition that was paused during the fetch. Its position has moved on,
            # so that they would be lost.
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            for piece in micro_batches(batch):
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                yield tp, _message(tp, piece, generation)


class MicroBatchTable(faust.Table[bytes, bytes]):
    """Table with a changelog whose rows lie in one state store per partition, recovered a micro-batch at a time.

    The join writes the stores itself, and the commit barrier writes the changelog. Faust decides which partitions this
    worker owns and replays their changelogs. Each assignment starts from empty stores.

    Attributes:
        stores: State store of each partition.
        new_store: Return an empty store for a partition.
        on_failure: Called with an error that must stop the worker.
        is_recovering: Whether changelog records are applied.
        num_recovered: Number of changelog records that were applied.
    """

    stores: MutableMapping[int, MutableMapping[bytes, bytes]]
    new_store: Callable[[int], MutableMapping[bytes, bytes]]
    on_failure: Callable[[BaseException], None]
    logger = _faust_log
    is_recovering: bool = False
    num_recovered: int = 0

    def store(self, partition: int) -> MutableMapping[bytes, bytes]:
        """Return the store of `partition`; create it at the first call."""
        if partition not in self.stores:
            self.stores[partition] = self.new_store(partition)
        return self.stores[partition]

    def drop_stores(self) -> None:
        """Close and forget all stores."""
        for store in self.stores.values():
            if isinstance(store, WarmStore):
                store.close()
        self.stores.clear()

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Start from empty stores, and have Faust read each changelog from its beginning."""
        self.drop_stores()
        self.is_recovering = True
        assert isinstance(self.app, MicroBatchApp)
        self.app.on_assigned()
        topic = self.changelog_topic.get_topic_name()
        recovery = self.app.recovery
        for tp in [tp for tp in recovery.active_offsets if tp.topic == topic]:
            recovery.revoke(tp)
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    def apply_changelog_batch(self, batch: Iterable[EventT[bytes]]) -> None:
        """Apply micro-batches of changelog records in order.

        Faust logs and forgets exceptions raised here, and would then run on half of the rows: they stop the worker.
        """
        try:
            for event in batch:
                self._apply(event.message)
        except Exception as error:  # noqa: BLE001
            self.on_failure(error)

    def _apply(self, message: Message) -> None:
        if not self.is_recovering:
            # A late fetch of records that this worker itself has written: its stores are newer.
            return
        if message.generation_id != self.app.consumer_generation_id:
            raise RuntimeError(
                f"{message.topic}[{message.partition}]: a micro-batch of an older generation in recovery"
            )
        records: Sequence[Record] = message.value  # type: ignore[assignment]  # a micro-batch travels as one value
        store = self.store(message.partition)
        if isinstance(store, WarmStore):
            store.apply({r.key: r.value for r in records if r.key is not None})
        else:
            for record in records:
                if record.key is None:
                    continue
                if record.value is None:
                    store.pop(record.key, None)
                else:
                    store[record.key] = record.value
        self.num_recovered += len(records)
