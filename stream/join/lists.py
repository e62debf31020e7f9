"""The lists that clicks and order lines can join: open queries, and closed sessions with labels."""

from stream.join.closed_sessions import ClosedSessions
from stream.join.open_queries import OpenQueries
from stream.join.settings import JoinSettings
from stream.join.target import Target


class Lists:
    """Open queries and closed sessions by query."""

    def __init__(self, settings: JoinSettings, open_queries: OpenQueries, closed_sessions: ClosedSessions) -> None:
        self._wait_ms = settings.wait_s * 1_000
        self._open = open_queries
        self._closed = closed_sessions

    def find(self, query_id: str, event_ts: int) -> Target | None:
        """Return the list of a query at the time of an event: open, or closed with labels.

        The event waits for the list for `wait_s`. A list, or part of it, of a later time does not exist for the event,
        also if its record is read early.
        """
        until_ts = event_ts + self._wait_ms
        target = self._open.find_target(query_id, until_ts) or self._closed.find_session(query_id, event_ts)
        return target if target is not None and target.event_ts <= until_ts else None

    def find_joined(self, query_id: str, event_ts: int) -> Target | None:
        """Return the list that an order line has joined, for its copies and reversals."""
        return self._open.find_target(query_id) or self._closed.find_session(query_id, event_ts)

    def find_newest(self, client_id: str, item_id: str, event_ts: int) -> Target | None:
        """Return the newest open list of a client that shows an item at a time."""
        return self._open.find_newest(client_id, item_id, event_ts)

    def is_evicted(self, query_id: str, event_ts: int) -> bool:
        """Return whether the session of a query was dropped for space."""
        return self._closed.was_evicted(query_id, event_ts)

    def absence(self, query_id: str, event_ts: int) -> tuple[str, str]:
        """Return reason and detail for an event whose query has no list."""
        if self._closed.was_unlabelled(query_id, event_ts):
            return "too_late", "the session closed without a click"
        if self._closed.was_evicted(query_id, event_ts):
            return "evicted", "the session was dropped for space"
        return "no_impression", f"query '{query_id}'"
