"""What one partition remembers: open queries, waiting events, closed sessions, and when each of them is due.

The in-memory indexes are derived from rows; `stream.join.restore` rebuilds them.

Source: STREAM.md 5.
"""

from collections import deque
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from msgspec import Struct

from stream.join import closed, profiles, rows, sessions
from stream.join.labels import Labels, Merge
from stream.join.output import MicroBatchOutput
from stream.join.rows import Source, WarmSession
from stream.join.settings import JoinSettings
from stream.join.tiers import Tier, WarmTier
from stream.schemas.events import Behaviour, Click, Conversion

_CLOSE_RANK = 1
_REVERSAL_RANK = 2


# Neither can be part of a cycle, and there are many of them: the garbage collector does not track them.
class OpenQuery(Struct, gc=False):
    """A query whose click window is open; its list stays in the hot tier."""

    query_id: str
    client_id: str
    event_id: str
    event_ts: int
    close_ts: int
    offset: int
    n: int
    labels: Labels | None = None


class Waiting(Struct, gc=False):
    """A click, or one line of a conversion, that is decided at its deadline at the latest."""

    topic: str
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


@dataclass(slots=True)
class Correction:
    """A closed session with what the slice in hand adds to it."""

    session: WarmSession
    items: set[int] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    grown: bool = False


class State:
    """The rows of a partition and the indexes over them.

    Attributes:
        hot: Lists and labels of open queries, waiting events.
        warm: Closed sessions, clicks by item, order lines, closed ids, profiles.
        open: Open queries by id.
        waiting: Waiting events by row key.
        corrections: Closed sessions that the slice has changed.
        batch_number: The slice in hand.
        expired_ts: Rows that expire up to here were swept.
        confirmed: The newest slice that no crash can undo; what a later one has settled is not deleted yet.
    """

    def __init__(
        self,
        partition: int,
        settings: JoinSettings,
        hot: MutableMapping[bytes, bytes],
        warm: MutableMapping[bytes, bytes],
    ) -> None:
        self._partition = partition
        self._settings = settings
        self._attribution_ms = settings.attribution_s * 1_000
        self._refund_ms = settings.refund_s * 1_000
        # A row outlives its window by what may still arrive or wait for it.
        self.slack_ms = (settings.wait_s + settings.lateness_s) * 1_000 + 1
        self.hot = Tier(hot)
        self.warm = WarmTier(warm)
        self.open: dict[str, OpenQuery] = {}
        self.waiting: dict[bytes, Waiting] = {}
        self.corrections: dict[str, Correction] = {}
        self.batch_number = 0
        self.confirmed = -1
        self.expired_ts = 0
        self._by_client: dict[str, list[str]] = {}
        self._held: dict[str, int] = {}
        self._waiting_for: dict[str, list[bytes]] = {}
        self._deadlines: list[tuple[int, int, int, int, str | bytes]] = []
        self._retiring: deque[tuple[int, bytes]] = deque()
        self._expiring: deque[tuple[int, bytes, int]] = deque()
        self._over = {b"c": closed.ClosedQueries(), b"e": closed.ClosedQueries()}
        self._relabelled: dict[str, OpenQuery] = {}
        self._digests: dict[tuple[bytes, int], list[int]] = {}
        self._profiles: dict[str, profiles.Profile] = {}

    # Open queries

    def open_query(self, query: OpenQuery) -> None:
        """Index a query whose row is in the hot tier."""
        self.open[query.query_id] = query
        self._by_client.setdefault(query.client_id, []).append(query.query_id)
        self._hold(query.client_id, 1 + (len(query.labels) if query.labels is not None else 0))
        heappush(self._deadlines, (query.close_ts, _CLOSE_RANK, query.event_ts, query.offset, query.query_id))

    def close_query(self, query: OpenQuery) -> None:
        """Forget an open query; its rows are deleted later."""
        del self.open[query.query_id]
        self._relabelled.pop(query.query_id, None)
        queries = self._by_client[query.client_id]
        queries.remove(query.query_id)
        if not queries:
            del self._by_client[query.client_id]
        self._retiring.append((self.batch_number, rows.impression_key(query.query_id)))
        num_labels = 0
        if query.labels is not None:
            num_labels = len(query.labels)
            self._retiring.append((self.batch_number, rows.labels_key(query.query_id)))
        self._hold(query.client_id, -1 - num_labels)

    def queries_of(self, client_id: str) -> list[OpenQuery]:
        """Return the open queries of a client."""
        return [self.open[query_id] for query_id in self._by_client.get(client_id, ())]

    def list_part(self, query: OpenQuery) -> bytes:
        """Return what the session of an open query will say of its list."""
        stored = self.hot.get(rows.impression_key(query.query_id))
        assert stored is not None, f"open query {query.query_id} without its row"
        return rows.unpack_shown(stored).part

    def relabelled(self, query: OpenQuery, verdict: Merge) -> None:
        """Note that labels of an open query were merged."""
        if verdict is Merge.ADDED:
            self._hold(query.client_id, 1)
        if verdict is Merge.ADDED or verdict is Merge.REPLACED:
            self._relabelled[query.query_id] = query

    def held_by(self, client_id: str) -> int:
        """Return how many events of a client are held open."""
        return self._held.get(client_id, 0)

    def _hold(self, client_id: str, num_events: int) -> None:
        held = self._held.get(client_id, 0) + num_events
        if held > 0:
            self._held[client_id] = held
        else:
            self._held.pop(client_id, None)

    # Waiting events

    def wait(self, waiting: Waiting) -> None:
        """Write a waiting event and index it."""
        key = rows.waiting_key(self._partition, waiting.topic, waiting.source.offset, waiting.line)
        self.hot.put(key, rows.pack_waiting(waiting.source))
        self.remember(key, waiting)

    def remember(self, key: bytes, waiting: Waiting) -> None:
        """Index a waiting event whose row is in the hot tier."""
        event = waiting.event
        self.waiting[key] = waiting
        if waiting.query_id is not None:
            self._waiting_for.setdefault(waiting.query_id, []).append(key)
        self._hold(event.client_id, 1)
        rank = _REVERSAL_RANK if isinstance(event, Conversion) and event.action_name != "purchase" else 0
        heappush(self._deadlines, (waiting.deadline_ts, rank, event.event_ts, waiting.source.offset, key))

    def waiting_for(self, query_id: str) -> list[tuple[bytes, Waiting]]:
        """Return the events that wait for the impression of a query."""
        keys = self._waiting_for.get(query_id)
        return [(key, self.waiting[key]) for key in keys] if keys else []

    def release(self, key: bytes, waiting: Waiting, placed_by: int | None = None) -> None:
        """Forget a waiting event that was decided; its row is deleted later.

        Until then the row says which impression settled it: a restart can tell a deadline that the watermark has
        passed, but not whether an arrival was enough.
        """
        del self.waiting[key]
        if placed_by is not None:
            self.hot.put(key, rows.pack_waiting(waiting.source, placed_by))
        if waiting.query_id is not None:
            keys = self._waiting_for[waiting.query_id]
            keys.remove(key)
            if not keys:
                del self._waiting_for[waiting.query_id]
        self._hold(waiting.event.client_id, -1)
        self.retire(key)

    def due(self, watermark_ts: int) -> Iterator[OpenQuery | tuple[bytes, Waiting]]:
        """Yield what the watermark has passed, in order of deadlines; of equal ones, events before the close."""
        while self._deadlines and self._deadlines[0][0] <= watermark_ts:
            name = heappop(self._deadlines)[4]
            if isinstance(name, str):
                query = self.open.get(name)
                if query is not None:
                    yield query
            else:
                waiting = self.waiting.get(name)
                if waiting is not None:
                    yield name, waiting

    # Closed sessions

    def find_session(self, query_id: str) -> Correction | None:
        """Return a clicked or bought session that is closed."""
        correction = self.corrections.get(query_id)
        if correction is not None:
            return correction
        stored = self.warm.get(rows.session_key(query_id))
        return Correction(rows.unpack_session(stored)) if stored is not None else None

    def correct(self, query_id: str, correction: Correction, verdict: Merge, item: int, reason: str) -> None:
        """Note a merge into a closed session; a repeated one is emitted again, as its first record may be lost."""
        if verdict is Merge.DUPLICATE:
            return
        correction.items.add(item)
        correction.reasons.add(reason)
        correction.grown |= verdict is not Merge.REPEATED
        self.corrections[query_id] = correction

    def put_session(self, query_id: str, warm: WarmSession) -> None:
        """Write a closed session."""
        until_ts = warm.event_ts + self._attribution_ms
        for deal in warm.labels.deals.values():
            if deal.action == "purchase":
                until_ts = max(until_ts, deal.event_ts + self._refund_ms)
        self.warm.put(rows.session_key(query_id), rows.pack_warm(until_ts + self.slack_ms, warm))

    def note_closed(self, query_id: str, ts: int) -> None:
        """Remember that a query closed without a click."""
        self._note(b"c", query_id, ts)

    def was_closed(self, query_id: str) -> bool:
        """Return whether a query closed without a click."""
        return query_id in self._over[b"c"]

    def was_evicted(self, query_id: str) -> bool:
        """Return whether a closed session was dropped for space."""
        return query_id in self._over[b"e"]

    def _note(self, kind: bytes, query_id: str, ts: int) -> None:
        hour = ts // closed.HOUR_MS
        value = closed.digest(query_id)
        self._over[kind].add(hour, value)
        self._digests.setdefault((kind, hour), []).append(value)

    def learn_closed(self, key: bytes, value: bytes) -> None:
        """Index a bucket row of closed or evicted queries."""
        hour = int(key.split(b":")[1])
        for number in closed.unpack(rows.unpack_bytes(value)):
            self._over[key[:1]].add(hour, number)

    # Profiles

    def behave(self, client_id: str, behaviour: Behaviour) -> None:
        """Add a behaviour to a client's profile."""
        profile = self._profiles.get(client_id)
        if profile is None:
            stored = self.warm.get(rows.profile_key(client_id))
            if stored is not None and rows.expiry_of(stored) <= self.expired_ts:
                # It was given up already; when its row goes depends on when slices are confirmed.
                stored = None
            profile = profiles.decode(rows.unpack_bytes(stored)) if stored is not None else profiles.empty(client_id)
            self._profiles[client_id] = profile
        profiles.add(profile, behaviour, self._settings.profile_size)

    # Rows

    def retire(self, key: bytes) -> None:
        """Delete a hot row once no crash can undo what settled it."""
        self._retiring.append((self.batch_number, key))

    def sweep(self, expiry_clock_ts: int, watermark_ts: int, effects: MicroBatchOutput) -> int:
        """Name rows whose time is over, drop what exceeds the cap, and return how many rows were dropped."""
        self.expired_ts = expiry_clock_ts
        for key, expiry_ts in self.warm.expired(expiry_clock_ts):
            self._expiring.append((self.batch_number, key, expiry_ts))
            if key[:1] == b"p":
                effects.profiles.append((key[1:], None))
        num_dropped = 0
        excess_bytes = self.warm.size_bytes - self._settings.warm_max_bytes
        if excess_bytes > 0:
            for key in self.warm.oldest(excess_bytes):
                num_dropped += 1
                if key[:1] == b"s":
                    self._note(b"e", key[1:].decode(), watermark_ts)
        return num_dropped

    def flush(self, expiry_clock_ts: int, effects: MicroBatchOutput) -> None:
        """Write what the slice has changed into the tiers and into `effects`."""
        for query in self._relabelled.values():
            assert query.labels is not None
            self.hot.put(rows.labels_key(query.query_id), rows.pack_labels(query.labels))
        self._relabelled.clear()
        for (kind, hour), digests in self._digests.items():
            key = rows.closed_key(kind, self._partition, hour, self.batch_number)
            expiry_ts = (hour + 1) * closed.HOUR_MS + self._attribution_ms
            self.warm.put(key, rows.pack_bytes(expiry_ts, closed.pack(digests)))
        self._digests.clear()
        for client_id, profile in self._profiles.items():
            expiry_ts = profile.updated_ts + self._settings.profile_idle_s * 1_000
            encoded = profiles.encode(profile)
            self.warm.put(rows.profile_key(client_id), rows.pack_bytes(expiry_ts, encoded))
            # An old behaviour that comes this late must not outlive the deletion of its profile.
            effects.profiles.append((client_id.encode(), encoded if expiry_ts > expiry_clock_ts else None))
        self._profiles.clear()
        self._delete_retired()
        self.batch_number += 1
        effects.hot, effects.warm = self.hot.flush(), self.warm.flush()

    def _delete_retired(self) -> None:
        while self._retiring and self._retiring[0][0] <= self.confirmed:
            key = self._retiring.popleft()[1]
            if not self._is_live(key):
                self.hot.delete(key)
        while self._expiring and self._expiring[0][0] <= self.confirmed:
            _, key, expiry_ts = self._expiring.popleft()
            if self.warm.delete_expired(key, expiry_ts) and key[:1] in self._over:
                self._over[key[:1]].forget(int(key.split(b":")[1]))

    def _is_live(self, key: bytes) -> bool:
        # Rows that ran ahead before a restart are retired too, and may have come again since.
        if key[:1] == b"w":
            return key in self.waiting
        query = self.open.get(key[1:].decode())
        return query is not None and (key[:1] == b"i" or query.labels is not None)


def head_of(correction: Correction) -> sessions.ListHead:
    """Return the list of a closed session."""
    return sessions.head(correction.session.part)
