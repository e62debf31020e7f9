"""Faust's consumer, which yields micro-batches: one message per partition and up to 512 records.

Source: docs/adr/0010-faust-in-micro-batches.md.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka.errors import IllegalStateError
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.transports import ConsumerCallback
from faust.types.tuples import ConsumerMessage, Message

from stream.agents.assignment import Fetched
from stream.agents.backpressure import bytes_in_memory
from stream.agents.faust_app import FAUST_LOG, MicroBatchApp
from stream.agents.fetch_thread import FetchThread
from stream.schemas.records import Record

BATCH_RECORDS = 512
_IDLE_S = 0.02


def micro_batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Cut the records of one partition into micro-batches.

    >>> [len(batch) for batch in micro_batches(range(1100))]
    [512, 512, 76]
    """
    for start in range(0, len(records), BATCH_RECORDS):
        yield records[start : start + BATCH_RECORDS]


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
    logger = FAUST_LOG

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
        return FetchThread(self, loop=self.loop, beacon=self.beacon)

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
        thread: FetchThread = self._thread  # type: ignore[assignment]  # made above
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
        thread: FetchThread = self._thread  # type: ignore[assignment]  # made above
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
