"""Targets of labels: a click or an order line joins an open query or a closed session in the same way."""

from abc import ABC, abstractmethod

from stream.join import labels, sessions
from stream.join.closed_sessions import ClosedSession, ClosedSessions
from stream.join.labels import Label, Labels, MergeResult
from stream.join.open_queries import OpenQueries, OpenQuery
from stream.join.sessions import ListView
from stream.join.settings import JoinSettings

_NO_LABELS = labels.empty()


class Target(ABC):
    """A list that takes labels.

    Attributes:
        is_open: Whether its click window is open.
        query_id: Its query.
        client_id: Its client.
        event_ts: Time of its impression.
        last_ts: Time of the last event that it takes.
        labels: Its labels, to read only.
    """

    __slots__ = ("_shown", "client_id", "event_ts", "labels", "last_ts", "query_id")
    is_open: bool

    def __init__(self, query_id: str, client_id: str, event_ts: int, last_ts: int, known: Labels) -> None:
        self.query_id = query_id
        self.client_id = client_id
        self.event_ts = event_ts
        self.last_ts = last_ts
        self.labels = known
        self._shown: ListView | None = None

    @property
    def shown(self) -> ListView:
        """Return its items; the list is decoded at the first call."""
        if self._shown is None:
            self._shown = sessions.list_view(self._list_payload())
        return self._shown

    @abstractmethod
    def merge(self, label: Label, reason: str) -> MergeResult:
        """Merge a label; the reason is that of the session's next revision."""

    @abstractmethod
    def _list_payload(self) -> bytes: ...


class _OpenTarget(Target):
    __slots__ = ("_queries", "_query")
    is_open = True

    def __init__(self, queries: OpenQueries, query: OpenQuery) -> None:
        known = query.labels if query.labels is not None else _NO_LABELS
        super().__init__(query.query_id, query.client_id, query.event_ts, query.close_ts - 1, known)
        self._queries = queries
        self._query = query

    def merge(self, label: Label, reason: str) -> MergeResult:  # noqa: ARG002 - an open list has no revision yet
        return self._queries.merge(self._query, label)

    def _list_payload(self) -> bytes:
        return self._queries.list_payload(self._query)


class _ClosedTarget(Target):
    __slots__ = ("_session", "_sessions")
    is_open = False

    def __init__(self, closed: ClosedSessions, session: ClosedSession, last_ts: int) -> None:
        row = session.row
        super().__init__(session.query_id, row.client_id, row.event_ts, last_ts, row.labels)
        self._sessions = closed
        self._session = session

    def merge(self, label: Label, reason: str) -> MergeResult:
        return self._sessions.merge(self._session, label, reason)

    def _list_payload(self) -> bytes:
        return self._session.row.list_payload


class Targets:
    """Finds the target of an event."""

    def __init__(self, settings: JoinSettings, open_queries: OpenQueries, closed: ClosedSessions) -> None:
        self._attribution_ms = settings.attribution_s * 1_000
        self._open = open_queries
        self._closed = closed

    def find(self, query_id: str) -> Target | None:
        """Return the list of a query: open, or closed with labels."""
        query = self._open.get(query_id)
        if query is not None:
            return _OpenTarget(self._open, query)
        session = self._closed.find(query_id)
        if session is not None:
            return _ClosedTarget(self._closed, session, session.row.event_ts + self._attribution_ms)
        return None

    def find_newest(self, client_id: str, item_id: str, event_ts: int) -> Target | None:
        """Return the newest open list of a client that shows an item at a time."""
        queries = [q for q in self._open.of_client(client_id) if q.event_ts <= event_ts < q.close_ts]
        for query in sorted(queries, key=lambda q: (q.event_ts, q.query_id), reverse=True):
            target = _OpenTarget(self._open, query)
            if item_id in target.shown.item_id:
                return target
        return None

    def was_evicted(self, query_id: str) -> bool:
        """Return whether the session of a query was dropped for space."""
        return self._closed.was_evicted(query_id)

    def absence(self, query_id: str) -> tuple[str, str]:
        """Return reason and detail for an event whose query has no list."""
        if self._closed.was_unlabelled(query_id):
            return "too_late", "the session closed without a click"
        if self._closed.was_evicted(query_id):
            return "evicted", "the session was dropped for space"
        return "no_impression", f"query '{query_id}'"
