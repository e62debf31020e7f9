"""Records as the worker takes them from aiokafka: a fetch makes half a million of them a minute.

aiokafka's own record is a frozen dataclass of eleven fields, which costs a tenth of the worker's time. Its parser fails
at a header whose name is not UTF-8, which Kafka accepts from any client: a lenient reader parses such a batch again.

Source: docs/adr/0010-faust-in-micro-batches.md; Kafka documentation, "Record Batch".
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
    """One record of an input or changelog, without cycles that the garbage collector would have to look for."""

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
    """Batch that is parsed in Python and accepts header names of any bytes."""

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
    """Batches of a fetch, with their bytes for a second pass."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


class _OneBatch(_MemoryRecords):
    """Bytes of exactly one batch, parsed leniently."""

    def next_batch(self) -> _LenientBatch:
        super().next_batch()
        return _LenientBatch(self.raw)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    _records: _MemoryRecords
    _records_iterator: Iterator[FetchedRecord]
    # End of the batches that were searched for one to parse again.
    _searched_to = 0

    def __next__(self) -> FetchedRecord:
        while True:
            try:
                return next(self._records_iterator)
            except StopIteration:
                self._records_iterator = iter(())  # the generator and this object refer to each other
                raise
            except UnicodeDecodeError:
                self._records_iterator = self._read_again()

    def _read_again(self) -> Iterator[FetchedRecord]:
        """Yield the remaining records of the batch that failed, and of the batches after it."""
        rest = self._records
        failed = self._failed_batch(rest.raw)
        if failed is not None:
            self._records = _OneBatch(failed)
            yield from self._unpack_records()
            self._records = rest
        yield from self._unpack_records()

    def _failed_batch(self, raw: bytes) -> bytes | None:
        """Return the first batch that reaches the wanted offset; batches before it are finished, or lie below it."""
        while self._searched_to < len(raw):
            start = self._searched_to
            base, length, magic, last_delta = _HEAD.unpack_from(raw, start)
            self._searched_to = start + _LENGTH_END + length
            if magic >= _FIRST_MAGIC_WITH_HEADERS and base + last_delta >= self.next_fetch_offset:
                return raw[start : self._searched_to]
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
    """Make every consumer of this process return `FetchedRecord`."""
    fetcher.MemoryRecords = _MemoryRecords
    fetcher.PartitionRecords = _PartitionRecords
