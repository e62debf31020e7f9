"""Deadlines of open queries and waiting events in one order.

Of equal deadlines, clicks come first, then purchases, closes of queries and reversals.
"""

from collections.abc import Iterator
from heapq import heappop, heappush

CLICK_RANK = 0
PURCHASE_RANK = 1
CLOSE_RANK = 2
REVERSAL_RANK = 3


class Deadlines:
    """A heap of deadlines; the key is a query id, or the row key of a waiting event."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, int, str | bytes]] = []

    def push(self, deadline_ts: int, rank: int, event_ts: int, offset: int, key: str | bytes) -> None:
        """Add a deadline; event time and offset order equal deadlines of one rank."""
        heappush(self._heap, (deadline_ts, rank, event_ts, offset, key))

    def pop_due(self, watermark_ts: int) -> Iterator[tuple[int, str | bytes]]:
        """Remove and yield deadlines that are due with their keys, also outdated ones."""
        while self._heap and self._heap[0][0] <= watermark_ts:
            deadline_ts, _, _, _, key = heappop(self._heap)
            yield deadline_ts, key
