"""Back-pressure of the worker: the bytes of micro-batches that were read and are not acknowledged.

Faust bounds the messages of its queue instead, and lets the queue grow: it goes on to read each partition until that
partition delivers once more. The budget bounds the input, because it
determines the size of everything that a micro-batch causes until it is confirmed.

Source: docs/stream.md.
"""

import asyncio
from collections.abc import Sequence

from stream.schemas.records import Record

# Cost of a record without content: its object and its entries in lists.
_RECORD_BYTES = 200


def bytes_in_memory(records: Sequence[Record]) -> int:
    """Return about how many bytes `records` take in memory.

    >>> bytes_in_memory([])
    0
    """
    return sum(len(record.value or b"") for record in records) + _RECORD_BYTES * len(records)


class ReadAheadBudget:
    """Budget of bytes that are read and not acknowledged; readers wait while `limit_bytes` or more are held.

    Attributes:
        held_bytes: Bytes of the micro-batches that were read and are not acknowledged.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._changed = asyncio.Event()
        self._is_open = False
        self.held_bytes = 0

    def open(self) -> None:
        """Start an assignment from zero held bytes."""
        self.held_bytes = 0
        self._is_open = True
        self._changed.set()

    def close(self) -> None:
        """End the assignment and let all readers go on."""
        self._is_open = False
        self._changed.set()

    def add(self, num_bytes: int) -> None:
        """Count a micro-batch as read."""
        self.held_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Count a micro-batch as acknowledged."""
        self.held_bytes -= num_bytes
        self._changed.set()

    async def wait_for_room(self) -> None:
        """Wait until more may be read, or the assignment ends."""
        while self._is_open and self.held_bytes >= self._limit_bytes:
            self._changed.clear()
            await self._changed.wait()
