"""How far a worker reads ahead: bytes of slices that were read and are not acknowledged yet.

Faust bounds the messages of its queue instead, and leaves them room to grow: it goes on to read each partition until
that partition delivers once more.

Source: RELIABILITY.md 2; the bound is on what is read, which sizes all that a slice causes until it is confirmed.
"""

import asyncio
from collections.abc import Sequence

from stream.schemas.records import Record

# What a record of no length costs: its object and its place in lists.
_RECORD_BYTES = 200


def weight(records: Sequence[Record]) -> int:
    """Return about how many bytes `records` take in memory.

    >>> weight([])
    0
    """
    return sum(len(record.value or b"") for record in records) + _RECORD_BYTES * len(records)


class ReadAhead:
    """Counts what is read and not acknowledged, and makes readers wait when that is `limit_bytes` or more."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._changed = asyncio.Event()
        self._is_open = False
        self.held_bytes = 0

    def open(self) -> None:
        """Begin an assignment: what was read in the one before is forgotten."""
        self.held_bytes = 0
        self._is_open = True
        self._changed.set()

    def close(self) -> None:
        """End the assignment; nobody waits any longer."""
        self._is_open = False
        self._changed.set()

    def take(self, num_bytes: int) -> None:
        """Count a slice as read."""
        self.held_bytes += num_bytes

    def give(self, num_bytes: int) -> None:
        """Count a slice as acknowledged."""
        self.held_bytes -= num_bytes
        self._changed.set()

    async def room(self) -> None:
        """Wait until more may be read, or the assignment ends."""
        while self._is_open and self.held_bytes >= self._limit_bytes:
            self._changed.clear()
            await self._changed.wait()
