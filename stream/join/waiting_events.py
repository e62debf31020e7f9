"""Waiting events: clicks and order lines whose list or click has not arrived yet.

The raw event stays in the hot tier; the indexes over it are derived and rebuilt by `stream.join.restore`.
"""

from msgspec import Struct

from stream.join import rows
from stream.join.admission import ClientLoad
from stream.join.deadlines import CLICK_RANK, PURCHASE_RANK, REVERSAL_RANK, Deadlines
from stream.join.rows import Source
from stream.join.tiers import HotTier
from stream.schemas import topics
from stream.schemas.events import Click, Conversion


# An event cannot be part of a cycle, and events are many: the garbage collector does not track them.
class WaitingEvent(Struct, gc=False):
    """A click, or one line of a conversion, which gets its outcome at its deadline at the latest."""

    event: Click | Conversion
    line: int
    source: Source
    deadline_ts: int

    @property
    def query_id(self) -> str | None:
        """Return the query that the event names."""
        if isinstance(self.event, Click):
            return self.event.query_id
        return self.event.items[self.line].query_id or self.event.query_id


class WaitingEvents:
    """Waiting events by row key and by the query that they name."""

    def __init__(self, hot: HotTier, deadlines: Deadlines, load: ClientLoad) -> None:
        self._hot = hot
        self._deadlines = deadlines
        self._load = load
        self._events: dict[bytes, WaitingEvent] = {}
        self._by_query: dict[str, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._events)

    def has_line(self, partition: int, offset: int, line: int) -> bool:
        """Return whether a line of the conversion at an offset waits."""
        return rows.waiting_key(partition, topics.CONVERSIONS, offset, line) in self._events

    def get(self, key: bytes) -> WaitingEvent | None:
        """Return a waiting event by its row key, or None."""
        return self._events.get(key)

    def of_query(self, query_id: str) -> list[tuple[bytes, WaitingEvent]]:
        """Return row key and event of those that name a query."""
        keys = self._by_query.get(query_id)
        return [(key, self._events[key]) for key in keys] if keys else []

    def add(self, waiting: WaitingEvent) -> None:
        """Write and index a new waiting event."""
        source = waiting.source
        key = rows.waiting_key(source.partition, source.topic, source.offset, waiting.line)
        self._hot.put(key, rows.pack_waiting(source))
        self._index(key, waiting)

    def restore(self, key: bytes, waiting: WaitingEvent) -> None:
        """Index a waiting event whose row is in the hot tier."""
        self._index(key, waiting)

    def _index(self, key: bytes, waiting: WaitingEvent) -> None:
        event = waiting.event
        self._events[key] = waiting
        if waiting.query_id is not None:
            self._by_query.setdefault(waiting.query_id, []).append(key)
        self._load.add(event.client_id, 1)
        self._deadlines.push(waiting.deadline_ts, _rank(event), event.event_ts, waiting.source.offset, key)

    def remove(self, key: bytes, waiting: WaitingEvent, joined_by: int | None = None) -> None:
        """Remove an event that has its outcome, and schedule the deletion of its row.

        Args:
            key: Key of its row.
            waiting: The event.
            joined_by: Offset of the impression that ended the wait before the deadline. The row names it until its
                deletion: a restart knows the deadlines that the watermark has passed, but not the arrivals.
        """
        del self._events[key]
        if joined_by is not None:
            self._hot.put(key, rows.pack_waiting(waiting.source, joined_by))
        if waiting.query_id is not None:
            keys = self._by_query[waiting.query_id]
            keys.remove(key)
            if not keys:
                del self._by_query[waiting.query_id]
        self._load.add(waiting.event.client_id, -1)
        self._hot.schedule_deletion(key)


def _rank(event: Click | Conversion) -> int:
    if isinstance(event, Click):
        return CLICK_RANK
    return PURCHASE_RANK if event.action_name == "purchase" else REVERSAL_RANK
