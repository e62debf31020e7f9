"""Records as the worker takes them from aiokafka: a fetch makes half a million of them a minute.

aiokafka's own is a frozen dataclass of eleven fields, which cost a tenth of the worker's time.

Source: STREAM.md 2.1 and 15.
"""

from typing import Protocol

from aiokafka.consumer import fetcher
from msgspec import Struct


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


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
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
    fetcher.PartitionRecords = _PartitionRecords
