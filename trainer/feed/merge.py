"""The one order of all partitions of `sessions`: (watermark made non-decreasing per partition, partition, offset).

A record is released when no partition can bring an earlier one, so the order depends on the log alone: a slow partition
delays it and never changes it. The module has no clock, no input and no output.

Source: docs/training.md.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stream.schemas.session import Progress, Session

_NEVER = -(2**62)


class Key(NamedTuple):
    """The sort key of a record in the merged order."""

    watermark_ts: int
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OrderedRecord:
    """A record and its key in the merged order."""

    key: Key
    record: Session | Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The state of one partition in the merged order: its next offset, and its watermark so far."""

    next_offset: int
    watermark_ts: int = _NEVER


class WatermarkMerge:
    """A merge of partitions that are pushed in any interleaving.

    Args:
        cursors: Partition to its cursor. Every partition of the topic must be named: else the order would depend on
            the arrival of its first record.
    """

    def __init__(self, cursors: Mapping[int, Cursor]) -> None:
        if not cursors:
            raise ValueError("cursors is empty: expected every partition of the topic")
        self._frontier = {p: Key(c.watermark_ts, p, c.next_offset) for p, c in cursors.items()}
        self._queues: dict[int, deque[OrderedRecord]] = {p: deque() for p in cursors}

    def push(self, partition: int, offset: int, record: Session | Progress) -> None:
        """Add the next record of a partition; offsets may leave holes but must rise.

        Raises:
            ValueError: If the offset was already pushed: the reader was not positioned at the cursor.
        """
        frontier = self._frontier[partition]
        if offset < frontier.offset:
            raise ValueError(f"partition {partition}: offset {offset} after {frontier.offset} was due")
        key = Key(max(frontier.watermark_ts, record.watermark_ts), partition, offset)
        self._queues[partition].append(OrderedRecord(key, record))
        self._frontier[partition] = Key(key.watermark_ts, partition, offset + 1)

    def skip(self, partition: int, offset: int) -> None:
        """Pass over an offset that holds no readable record."""
        frontier = self._frontier[partition]
        self._frontier[partition] = frontier._replace(offset=max(frontier.offset, offset + 1))

    def release(self) -> Iterator[OrderedRecord]:
        """Yield the records that no partition can precede."""
        while True:
            first = min(self._queues, key=self._bound)
            if not self._queues[first]:
                return
            yield self._queues[first].popleft()

    def _bound(self, partition: int) -> Key:
        queue = self._queues[partition]
        return queue[0].key if queue else self._frontier[partition]

    def ahead(self, max_waiting: int) -> set[int]:
        """Return partitions with more than `max_waiting` records waiting, except the one that the merge waits for."""
        slowest = min(self._queues, key=self._bound)
        return {p for p, queue in self._queues.items() if len(queue) > max_waiting and p != slowest}
