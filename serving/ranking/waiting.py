"""The queue of lists that wait for the inference thread: oldest first, and newest first once it is too long.

Admission keeps the queue so short that each list can be served in time. After a stall it is longer; oldest first would
then serve each list when it is almost too late, or later. Newest first serves most of them quickly and gives up the
rest. Lists that cannot be served in time are taken out in any case.

Source: Maurer, "Fail at scale" (ACM Queue, 2015), adaptive LIFO with controlled delay.
"""

from collections import deque
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Anything that waits."""

    @property
    def due_s(self) -> float:
        """Return the time until which its result is of use."""
        ...

    @property
    def is_tried(self) -> bool:
        """Return whether it is served although it may take too long, because nothing was ahead of it."""
        ...


Item = TypeVar("Item", bound=Timed)


class WaitingLists(Generic[Item]):
    """Queue in the order of arrival, for one lock of its owner."""

    def __init__(self, most: int) -> None:
        """Prepare an empty queue of at most `most` items."""
        self._most = most
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Add an item and return whether there was room."""
        if len(self._items) >= self._most:
            return False
        self._items.append(item)
        return True

    def take(self, now_s: float, needed_s: float) -> tuple[Item | None, list[Item]]:
        """Take the item to serve, and those that cannot be served in time.

        Args:
            now_s: The time.
            needed_s: Seconds that serving one takes.
        """
        expired = []
        while self._items and not _is_in_time(self._items[0], now_s, needed_s):
            expired.append(self._items.popleft())
        if not self._items:
            return None, expired
        # The newest would be last.
        is_too_long = now_s + len(self._items) * needed_s > self._items[-1].due_s
        return self._items.pop() if is_too_long else self._items.popleft(), expired


def _is_in_time(item: Timed, now_s: float, needed_s: float) -> bool:
    return now_s + (0.0 if item.is_tried else needed_s) <= item.due_s
