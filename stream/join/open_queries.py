"""Open queries: lists whose click window has not passed, with their labels.

The list of a query stays in the hot tier; the indexes over it are derived and rebuilt by `stream.join.restore`.
"""

from msgspec import Struct

from stream.join import labels, list_parts, rows
from stream.join.admission import ClientLoad
from stream.join.deadlines import CLOSE_RANK, Deadlines
from stream.join.labels import Label, Labels, MergeResult
from stream.join.settings import JoinSettings
from stream.join.target import Target
from stream.join.tiers import HotTier

_NO_LABELS = labels.empty()


# A part cannot be part of a cycle, as a query cannot.
class Part(Struct, frozen=True, gc=False):
    """An impression that shows a further part of a list."""

    offset: int
    event_id: str
    event_ts: int


# A query cannot be part of a cycle, and queries are many: the garbage collector does not track them.
class OpenQuery(Struct, gc=False):
    """A query whose click window is open.

    Attributes:
        query_id: Its id.
        client_id: Its client.
        event_id: Id of its impression, of parts the one that was read first.
        event_ts: Time of its impression, of parts the least one.
        close_ts: End of its click window, which the last part begins.
        offset: Offset of its impression, of parts the one that was read first.
        n: Length of its list.
        is_whole: Whether one of its impressions names no positions.
        parts: Its further parts.
        places: Item by position; None while there are no further parts.
        labels: Its labels, also those of records that a restart has not read again.
        num_joined: Number of the labels whose record is merged.
    """

    query_id: str
    client_id: str
    event_id: str
    event_ts: int
    close_ts: int
    offset: int
    n: int
    is_whole: bool = True
    labels: Labels | None = None
    num_joined: int = 0
    parts: list[Part] = []
    places: dict[int, str] | None = None

    @property
    def num_parts(self) -> int:
        """Return the number of impressions."""
        return 1 + len(self.parts)

    def has_part(self, event_id: str) -> bool:
        """Return whether an impression is one of this list."""
        return event_id == self.event_id or any(part.event_id == event_id for part in self.parts)

    def add(self, part: Part, places: dict[int, str], window_ms: int) -> None:
        """Add a further part that shows items at positions."""
        assert self.places is not None
        self.parts = [*self.parts, part]
        self.places = {**self.places, **places}
        self.n = len(self.places)
        self.event_ts = min(self.event_ts, part.event_ts)
        self.close_ts = max(self.close_ts, part.event_ts + window_ms)


class _OpenTarget(Target):
    """An open query as the target of labels."""

    __slots__ = ("_queries", "_query", "_until_ts")
    is_open = True

    def __init__(self, queries: "OpenQueries", query: OpenQuery, until_ts: int | None) -> None:
        known = query.labels if query.labels is not None else _NO_LABELS
        super().__init__(query.query_id, query.client_id, query.event_ts, query.close_ts - 1, known)
        self._queries = queries
        self._query = query
        self._until_ts = until_ts

    def list_payload(self) -> bytes:
        return self._queries.list_payload(self._query, self._until_ts)

    def merge(self, label: Label, reason: str) -> MergeResult:  # noqa: ARG002 - an open list has no revision yet
        result = self._queries.merge_label(self._query, label)
        assert self._query.labels is not None
        self.labels = self._query.labels
        return result


class OpenQueries:
    """Open queries by id and by client.

    Attributes:
        num_parts: Number of their impressions.
    """

    def __init__(self, settings: JoinSettings, hot: HotTier, deadlines: Deadlines, load: ClientLoad) -> None:
        self._tolerance_ms = settings.clock_tolerance_ms
        self._window_ms = settings.click_window_s * 1_000
        self._hot = hot
        self._deadlines = deadlines
        self._load = load
        self._queries: dict[str, OpenQuery] = {}
        self._by_client: dict[str, list[str]] = {}
        self._relabelled: dict[str, OpenQuery] = {}
        self.num_parts = 0

    def __len__(self) -> int:
        return len(self._queries)

    def get(self, query_id: str) -> OpenQuery | None:
        """Return an open query, or None."""
        return self._queries.get(query_id)

    def find_target(self, query_id: str, until_ts: int | None = None) -> Target | None:
        """Return an open query as the target of labels, or None.

        Args:
            query_id: The query.
            until_ts: Parts of the list with a later time do not count.
        """
        query = self._queries.get(query_id)
        return _OpenTarget(self, query, until_ts) if query is not None else None

    def find_newest(self, client_id: str, item_id: str, event_ts: int) -> Target | None:
        """Return the newest list of a client that shows an item at a time, or else the first one within the tolerance.

        Lists stay open until every click in their window has its outcome.
        """
        queries = [self._queries[query_id] for query_id in self._by_client.get(client_id, ())]
        queries = [query for query in queries if query.event_ts - self._tolerance_ms <= event_ts < query.close_ts]
        queries.sort(key=lambda query: query.query_id, reverse=True)
        queries.sort(key=lambda query: (query.event_ts > event_ts, abs(query.event_ts - event_ts)))
        for query in queries:
            target = _OpenTarget(self, query, event_ts + self._tolerance_ms)
            if item_id in target.shown.item_id:
                return target
        return None

    def list_payload(self, query: OpenQuery, until_ts: int | None = None) -> bytes:
        """Return the list payload of an open query, without the parts after a time."""
        first = self._row(rows.impression_key(query.query_id))
        if not query.parts:
            return first.list_payload
        shown = [self._row(rows.part_key(query.query_id, part.offset)) for part in query.parts]
        return list_parts.merged([first, *shown], until_ts)

    def _row(self, key: bytes) -> rows.ImpressionRow:
        stored = self._hot.get(key)
        assert stored is not None, f"open query without its row {key!r}"
        return rows.unpack_impression(stored)

    def open(self, query: OpenQuery, list_payload: bytes) -> None:
        """Write and index a new query."""
        row = rows.ImpressionRow(query.offset, query.event_id, list_payload)
        self._hot.put(rows.impression_key(query.query_id), rows.pack_impression(row))
        self._index(query)

    def add_part(self, query: OpenQuery, part: Part, places: dict[int, str], list_payload: bytes) -> None:
        """Write a further part of an open query, which may begin earlier and close later with it."""
        close_ts = query.close_ts
        query.add(part, places, self._window_ms)
        row = rows.ImpressionRow(part.offset, part.event_id, list_payload)
        self._hot.put(rows.part_key(query.query_id, part.offset), rows.pack_impression(row))
        self.num_parts += 1
        self._load.add(query.client_id, 1)
        if query.close_ts > close_ts:
            self._push_deadline(query)

    def restore(self, query: OpenQuery) -> None:
        """Index a query whose row is in the hot tier."""
        self._index(query)

    def _index(self, query: OpenQuery) -> None:
        self._queries[query.query_id] = query
        self._by_client.setdefault(query.client_id, []).append(query.query_id)
        self.num_parts += query.num_parts
        self._load.add(query.client_id, query.num_parts + query.num_joined)
        self._push_deadline(query)

    def is_due(self, query: OpenQuery, deadline_ts: int) -> bool:
        """Return whether a query closes at a deadline; a later part has postponed earlier ones."""
        return query.close_ts + self._tolerance_ms <= deadline_ts

    def _push_deadline(self, query: OpenQuery) -> None:
        # A click in the window may be inferred until the tolerance has passed.
        self._deadlines.push(
            query.close_ts + self._tolerance_ms, CLOSE_RANK, query.event_ts, query.offset, query.query_id
        )

    def merge_label(self, query: OpenQuery, label: Label) -> MergeResult:
        """Merge a label into an open query."""
        if query.labels is None:
            query.labels = labels.empty()
        result = query.labels.merge(label)
        # A repeated label counts once its record is read again after a crash.
        is_read_again = result is MergeResult.REPEATED and query.num_joined < len(query.labels)
        if result is MergeResult.ADDED or is_read_again:
            query.num_joined += 1
            self._load.add(query.client_id, 1)
        if result is MergeResult.ADDED or result is MergeResult.REPLACED:
            self._relabelled[query.query_id] = query
        return result

    def close(self, query: OpenQuery) -> None:
        """Remove a query and schedule the deletion of its rows."""
        del self._queries[query.query_id]
        self._relabelled.pop(query.query_id, None)
        of_client = self._by_client[query.client_id]
        of_client.remove(query.query_id)
        if not of_client:
            del self._by_client[query.client_id]
        self._hot.schedule_deletion(rows.impression_key(query.query_id))
        for part in query.parts:
            self._hot.schedule_deletion(rows.part_key(query.query_id, part.offset))
        if query.labels is not None:
            self._hot.schedule_deletion(rows.labels_key(query.query_id))
        self.num_parts -= query.num_parts
        self._load.add(query.client_id, -query.num_parts - query.num_joined)

    def flush(self) -> None:
        """Write the labels that the micro-batch has changed into the hot tier."""
        for query in self._relabelled.values():
            assert query.labels is not None
            self._hot.put(rows.labels_key(query.query_id), rows.pack_labels(query.labels))
        self._relabelled.clear()
