"""Faust's consumer and tables, fed and recovered in slices: one message per partition and up to 512 records.

Overrides private methods of one pinned Faust; `check_versions` refuses others; test_faust_contract.py and
test_faust_methods.py pin what is relied on.

Source: STREAM.md 2.1 (B1, B16 to B18) and 2.5.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalStateError
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, EventT
from faust.types.transports import ConsumerCallback
from faust.types.tuples import ConsumerMessage, Message

from stream.agents.backpressure import ReadAhead, weight
from stream.agents.stores import WarmStore
from stream.errors import ConfigError
from stream.schemas.records import Record

SLICE = 512
FETCH_WAIT_MS = 200
FETCH_BYTES = 8 << 20
FETCH_LEAST_BYTES = 1 << 20
_IDLE_S = 0.02
PINNED: Mapping[str, str] = {
    "faust-streaming": "0.15.3",
    "aiokafka": "0.14.0",
    "mode-streaming": "0.7.1",
}


def check_versions() -> None:
    """Refuse to run on other releases than those whose private methods are overridden.

    Raises:
        ConfigError: Naming the package, the pinned release and the one found.
    """
    for package, pinned in PINNED.items():
        found = version(package)
        if found != pinned:
            raise ConfigError(f"{package} {found} is installed, the worker overrides private parts of {pinned}")


def slices(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Cut the records of one partition into slices.

    >>> [len(piece) for piece in slices(range(1100))]
    [512, 512, 76]
    """
    for start in range(0, len(records), SLICE):
        yield records[start : start + SLICE]


class SliceApp(faust.App):
    """An app that says when an assignment may be worked on: recovered, positioned, and not yet revoked again."""

    on_ready: Callable[[int], None]
    ahead: ReadAhead
    clock: Callable[[], float]
    is_ready = False
    assigned_s: float
    _assignment_count = -1

    def on_rebalance_start(self) -> None:
        """Stop reading inputs; called as soon as the broker asks for partitions back."""
        self.is_ready = False
        self.ahead.close()
        super().on_rebalance_start()

    def on_assigned(self) -> None:
        """Note which rebalance the tables are recovering for, and since when."""
        if self._assignment_count != self.rebalancing_count:
            self._assignment_count = self.rebalancing_count
            self.assigned_s = self.clock()

    def on_rebalance_end(self) -> None:
        """Report readiness, unless the next rebalance has begun while this one was ending."""
        super().on_rebalance_end()
        if self._assignment_count == self.rebalancing_count:
            self.is_ready = True
            self.ahead.open()
            self.on_ready(self.consumer_generation_id)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust waits 1.5 s in a fetch, and questions about end offsets wait behind it on the same connection.
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 - Faust has no setting for it
        # At a moderate pace a fetch would bring a few records, and each slice costs writes to several topics.
        consumer._fetch_min_bytes = FETCH_LEAST_BYTES  # noqa: SLF001
        # aiokafka takes up to 50 MiB at a time, and holds it two or three times over while it is parsed.
        consumer._fetch_max_bytes = FETCH_BYTES  # noqa: SLF001
        return consumer


def _message(tp: TP, piece: Sequence[Record], generation: int) -> Message:
    """Return a slice as one message."""
    last = piece[-1]
    return ConsumerMessage(
        topic=tp.topic,
        partition=tp.partition,
        offset=last.offset,
        timestamp=last.timestamp / 1_000,
        timestamp_type=0,
        headers=None,
        key=None,
        value=piece,  # type: ignore[arg-type]  # a slice travels as one value
        checksum=None,
        serialized_value_size=weight(piece),
        tp=tp,
        generation_id=generation,
    )


class SliceConsumer(driver.Consumer):
    """Yields slices; the offset of a slice is that of its last record.

    Faust's own loop makes two asyncio tasks per message, which a slice shares among its records. Its bookkeeping of
    holes between offsets is replaced, because it would take the inside of a slice for holes. Acknowledgements come
    strictly in order per partition, so the newest one is the commit.
    """

    before_revoke: Callable[[], Awaitable[None]]
    starts: dict[TP, int]

    _num_seeks = 0

    def __init__(self, transport: driver.Transport, callback: ConsumerCallback, *args: Any, **kwargs: Any) -> None:
        """Count each slice of an input that Faust passes on; it drops those it has passed on before."""
        app = transport.app
        assert isinstance(app, SliceApp)
        self._ahead = app.ahead

        async def counted(message: Message) -> None:
            if not self._is_changelog_tp(message.tp):
                self._ahead.take(message.serialized_value_size)
            await callback(message)

        super().__init__(transport, counted, *args, **kwargs)

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        self.starts = {}
        self._dropped: set[TP] = set()
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Go to the committed offsets, or to the first ones, and keep them in `starts`.

        Faust leaves a partition without a commit where it is, which is past what was fetched and dropped in a
        rebalance.
        """
        await super().perform_seek()
        inputs = [tp for tp in self.assignment() if not self._is_changelog_tp(tp)]
        committed = {tp: offset for tp in inputs if (offset := self._read_offset[tp]) is not None}
        fresh = [tp for tp in inputs if tp not in committed]
        first = {TP(*tp): at for tp, at in (await self.earliest_offsets(*fresh)).items()} if fresh else {}
        if first:
            await self.seek_wait(first)
        self.starts = committed | first

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let the worker finish and commit what is in flight, before Faust forgets the acknowledgements."""
        await self.before_revoke()
        await self.commit()
        await super().on_partitions_revoked(revoked)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Holes need no bookkeeping when acknowledgements come in order."""

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
        agents' queues: what was fetched in between would be lost (#596). After the recovery it goes on to read the
        changelogs, which are what this worker writes.
        """
        await self._ahead.room()
        assert isinstance(self.app, SliceApp)
        is_ready = self.app.is_ready
        wanted = {tp for tp in active_partitions or () if self._is_changelog_tp(tp) is not is_ready}
        if not wanted:
            await asyncio.sleep(_IDLE_S)
            return {}
        await self._read_again()
        num_seeks = self._num_seeks
        records: RecordMap = await super()._getmany(wanted, timeout)
        if num_seeks != self._num_seeks:
            # Of a fetch that was under way during a seek it is not known on which side of it each partition was read.
            self._drop_changelogs(records)
            return {tp: batch for tp, batch in records.items() if not self._is_changelog_tp(tp)}
        return records

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek, and have fetches that overlap with it read again."""
        self._num_seeks += 1
        await super().seek_wait(partitions)
        self._num_seeks += 1

    def _drop_changelogs(self, records: RecordMap) -> None:
        self._dropped.update(tp for tp in records if self._is_changelog_tp(tp))

    async def _read_again(self) -> None:
        """Go back in changelogs of which a fetch was dropped, to where their recovery has come.

        A recovery waits for ever for what was fetched and dropped. What it is given twice, in order, changes nothing.
        """
        if not self._dropped:
            return
        dropped, self._dropped = self._dropped, set()
        assert isinstance(self.app, SliceApp)
        recovered = self.app.tables.recovery.active_offsets  # type: ignore[attr-defined]  # missing in the interface type
        assigned = self.assignment()
        again = {tp: recovered[tp] + 1 for tp in dropped if tp in assigned and recovered.get(tp) is not None}
        if again:
            with suppress(IllegalStateError):
                await super().seek_wait(again)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """Yield what the next fetch brought, a slice at a time, while this generation lasts."""
        records, _ = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        generation = self.app.consumer_generation_id
        if not self.flow_active:
            self._drop_changelogs(records)
            if self.assignment():
                # What is revoked while this goes on needs no seek, and a new assignment seeks when it has recovered.
                with suppress(IllegalStateError):
                    await self.perform_seek()
            return
        for tp, batch in records.items():
            # Faust drops here what it has fetched for a partition that was paused meanwhile. Its position has moved
            # on, so that would be a loss.
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            for piece in slices(batch):
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                yield tp, _message(tp, piece, generation)


class SliceTable(faust.Table[bytes, bytes]):
    """A changelogged table whose rows lie in one store per partition, recovered a slice at a time.

    The join writes the stores itself, and the gate writes the changelog: Faust decides which partitions this worker
    owns and replays their changelogs. Each assignment starts from empty stores.
    """

    shards: MutableMapping[int, MutableMapping[bytes, bytes]]
    new_shard: Callable[[int], MutableMapping[bytes, bytes]]
    on_failure: Callable[[BaseException], None]
    is_recovering: bool = False
    num_recovered: int = 0

    def shard(self, partition: int) -> MutableMapping[bytes, bytes]:
        """Return the store of `partition`, made when it is first asked for."""
        if partition not in self.shards:
            self.shards[partition] = self.new_shard(partition)
        return self.shards[partition]

    def forget(self) -> None:
        """Drop all stores."""
        for shard in self.shards.values():
            if isinstance(shard, WarmStore):
                shard.close()
        self.shards.clear()

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Start from empty stores, and have Faust read each changelog from its beginning."""
        self.forget()
        self.is_recovering = True
        assert isinstance(self.app, SliceApp)
        self.app.on_assigned()
        topic = self.changelog_topic.get_topic_name()
        recovery = self.app.tables.recovery  # type: ignore[attr-defined]  # missing in Faust's interface type
        for tp in [tp for tp in recovery.active_offsets if tp.topic == topic]:
            recovery.revoke(tp)
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    def apply_changelog_batch(self, batch: Iterable[EventT[bytes]]) -> None:
        """Apply slices of changelog records in order.

        Faust logs and forgets exceptions raised here, and would then run on half of the rows: they stop the worker.
        """
        try:
            for event in batch:
                self._apply(event.message)
        except Exception as error:  # noqa: BLE001
            self.on_failure(error)

    def _apply(self, message: Message) -> None:
        if not self.is_recovering:
            # A late fetch of what this worker itself has written: its stores are newer.
            return
        if message.generation_id != self.app.consumer_generation_id:
            raise RuntimeError(f"{message.topic}[{message.partition}]: a slice of an older generation in recovery")
        records: Sequence[Record] = message.value  # type: ignore[assignment]  # a slice travels as one value
        rows = self.shard(message.partition)
        if isinstance(rows, WarmStore):
            rows.apply({r.key: r.value for r in records if r.key is not None})
        else:
            for record in records:
                if record.key is None:
                    continue
                if record.value is None:
                    rows.pop(record.key, None)
                else:
                    rows[record.key] = record.value
        self.num_recovered += len(records)
