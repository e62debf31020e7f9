"""Decoding of record headers whose name is not UTF-8.

Kafka allows any bytes in the name of a header. Python's clients decode names strictly: kafka-python then fails at the
same record on every fetch, and the partition stands still.
"""

from typing import Any, SupportsIndex

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch


class _Name(bytearray):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class LenientBuffer(bytearray):
    r"""The bytes of a record batch. Slices of it decode bytes that are not UTF-8 as backslash escapes.

    >>> LenientBuffer(b"name \xff")[:].decode()
    'name \\xff'
    """

    def __getitem__(self, at: SupportsIndex | slice) -> Any:
        found = super().__getitem__(at)
        return _Name(found) if isinstance(found, bytearray) else found


class _RecordBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    _buffer: bytearray

    def _read_msg(self) -> object:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            self._buffer = LenientBuffer(self._buffer)
            return super()._read_msg()


def install() -> None:
    """Make kafka-python's consumers decode headers leniently; a second call changes nothing."""
    memory_records.DefaultRecordBatch = _RecordBatch
