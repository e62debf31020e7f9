"""Records as the worker takes them from aiokafka: a fetch makes half a million of them a minute.

aiokafka's own is a frozen dataclass of eleven fields, which cost a tenth of the worker's time. And it fails at a header
whose name is not UTF-8, which Kafka takes from any client: such a batch is read a second time, by a lenient reader.

Source: STREAM.md 2.1 and 15; Kafka's record batch, version 2.
"""

import struct
from collections.abc import Iterator
from typing import Protocol, Self

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py
from msgspec import Struct

from stream.broker.lenient_headers import LenientBuffer

# Base offset, length, magic and last offset delta; the length counts what follows it.
_HEAD = struct.Struct(">qi4xb6xi")
_LENGTH_END = 12
_FIRST_MAGIC_WITH_HEADERS = 2


class FetchedRecord(Struct, gc=False):
    """One record of an input or changelog; the garbage collector need not look for cycles through it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class _Raw(Protocol):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class _Partition(Protocol):
    topic: str
    partition: int


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """A batch read in Python, which takes header names of any bytes."""

    _buffer: bytearray

    def __iter__(self) -> Self:
        super().__iter__()
        self._buffer = LenientBuffer(self._buffer)
        return self

    def _read_msg(self) -> _Raw:
        # The varint reader of aiokafka's extension takes plain byte arrays only, and does not know where they end.
        record: _Raw = super()._read_msg(decode_varint_py)
        return record


class _MemoryRecords(fetcher.MemoryRecords):  # type: ignore[misc]
    """The batches of a fetch, whose bytes can be looked at again."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


class _OneBatch(_MemoryRecords):
    """The batch that all the bytes are, read leniently."""

    def next_batch(self) -> _LenientBatch:
        super().next_batch()
        return _LenientBatch(self.raw)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    _records: _MemoryRecords
    _records_iterator: Iterator[FetchedRecord]
    # How far the batches have been looked through for those to be read again.
    _looked_to = 0

    def __next__(self) -> FetchedRecord:
        while True:
            try:
                return next(self._records_iterator)
            except StopIteration:
                self._records_iterator = iter(())  # the generator refers to what refers to it
                raise
            except UnicodeDecodeError:
                self._records_iterator = self._read_again()

    def _read_again(self) -> Iterator[FetchedRecord]:
        """Yield what is left of the batch that failed, and of those after it."""
        rest = self._records
        failed = self._failed_batch(rest.raw)
        if failed is not None:
            self._records = _OneBatch(failed)
            yield from self._unpack_records()
            self._records = rest
        yield from self._unpack_records()

    def _failed_batch(self, raw: bytes) -> bytes | None:
        """Return the first batch that reaches the wanted offset: those before it are done with, or lie below it."""
        while self._looked_to < len(raw):
            start = self._looked_to
            base, length, magic, last_delta = _HEAD.unpack_from(raw, start)
            self._looked_to = start + _LENGTH_END + length
            if magic >= _FIRST_MAGIC_WITH_HEADERS and base + last_delta >= self.next_fetch_offset:
                return raw[start : self._looked_to]
        return None

    def _consumer_record(self, tp: _Partition, record: _Raw) -> FetchedRecord:
        headers = record.headers
        return FetchedRecord(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple(headers) if headers else (),
        )


def install() -> None:
    """Have every consumer of this process hand out `FetchedRecord`."""
    fetcher.MemoryRecords = _MemoryRecords
    fetcher.PartitionRecords = _PartitionRecords
