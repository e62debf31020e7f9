"""Closed sessions: those with labels, which may still be corrected, and digests of the others."""

from collections.abc import Collection, Iterable

from stream.join import query_digests, rows, sessions
from stream.join.labels import Label, MergeResult
from stream.join.query_digests import QueryDigests
from stream.join.rows import SessionRow
from stream.join.settings import JoinSettings
from stream.join.target import Target
from stream.join.tiers import BatchNumbers, WarmTier
from stream.schemas.session import ListPart
from stream.schemas.times import HOUR_MS

_UNLABELLED = b"c"
_EVICTED = b"e"


class ClosedSession(Target):
    """A closed session with labels, and the changes of the current micro-batch.

    Attributes:
        row: Its row, with the labels of the micro-batch.
        merged: The labels that were merged.
        reasons: Reasons of the merges.
        has_grown: Whether a merge has changed the labels.
    """

    __slots__ = ("_corrected", "has_grown", "merged", "reasons", "row")
    is_open = False

    def __init__(self, query_id: str, row: SessionRow, last_ts: int, corrected: "dict[str, ClosedSession]") -> None:
        super().__init__(query_id, row.client_id, row.event_ts, last_ts, row.labels)
        self.row = row
        self.merged: list[Label] = []
        self.reasons: set[str] = set()
        self.has_grown = False
        self._corrected = corrected

    def list_payload(self) -> bytes:
        """Return the list payload."""
        return self.row.list_payload

    def merge(self, label: Label, reason: str) -> MergeResult:
        """Merge a label; a repeated one is emitted again, as a crash may have lost its first record."""
        result = self.row.labels.merge(label)
        if result is not MergeResult.DUPLICATE:
            self.merged.append(label)
            self.reasons.add(reason)
            self.has_grown |= result is not MergeResult.REPEATED
            self._corrected[self.query_id] = self
        return result


class ClosedSessions:
    """Closed sessions by query."""

    def __init__(self, partition: int, settings: JoinSettings, warm: WarmTier, batches: BatchNumbers) -> None:
        self._partition = partition
        self._attribution_ms = settings.attribution_s * 1_000
        self._refund_ms = settings.refund_s * 1_000
        self._slack_ms = settings.slack_ms
        self._warm = warm
        self._batches = batches
        self._corrected: dict[str, ClosedSession] = {}
        self._digests = {_UNLABELLED: QueryDigests(), _EVICTED: QueryDigests()}
        self._new_digests: dict[tuple[bytes, int], list[int]] = {}

    def find_session(self, query_id: str, event_ts: int) -> ClosedSession | None:
        """Return a closed session with labels, or None if there is none or it has expired at the time of an event."""
        corrected = self._corrected.get(query_id)
        if corrected is not None:
            return corrected if event_ts < self._expiry_ts(corrected.row) else None
        stored = self._warm.get(rows.session_key(query_id))
        if stored is None or event_ts >= rows.expiry_of(stored):
            return None
        row = rows.unpack_session(stored)
        return ClosedSession(query_id, row, row.event_ts + self._attribution_ms, self._corrected)

    def had_part(self, query_id: str, event_id: str, event_ts: int) -> bool:
        """Return whether an impression shows a part of a closed query, unless this has expired at a time."""
        session = self.find_session(query_id, event_ts)
        if session is not None:
            parts = sessions.parts_of(session.row.list_payload)
            return any(part.event_id == event_id and not part.is_whole for part in parts)
        return self._has_digest(_UNLABELLED, _part(query_id, event_id), event_ts)

    def had_whole(self, query_id: str, event_ts: int) -> bool:
        """Return whether an impression without positions shows a closed query, unless this has expired at a time."""
        session = self.find_session(query_id, event_ts)
        if session is not None:
            return not _are_parts_only(sessions.parts_of(session.row.list_payload))
        return any(
            self._has_digest(kind, query_id, event_ts) and not self._has_digest(kind, _no_whole(query_id), event_ts)
            for kind in self._digests
        )

    def is_over(self, query_id: str, event_ts: int, offset: int) -> bool:
        """Return whether a query has closed, for an impression that may open it.

        After a crash, the session of an impression that is read again may be stored already.
        """
        session = self.find_session(query_id, event_ts)
        if session is not None:
            return offset not in sessions.offsets_of(session.row.list_payload)
        return self.was_unlabelled(query_id, event_ts)

    def was_unlabelled(self, query_id: str, event_ts: int) -> bool:
        """Return whether a query closed without a label, unless this has expired at the time of an event."""
        return self._has_digest(_UNLABELLED, query_id, event_ts)

    def was_evicted(self, query_id: str, event_ts: int) -> bool:
        """Return whether a closed session was dropped for space, unless this has expired at the time of an event."""
        return self._has_digest(_EVICTED, query_id, event_ts)

    def put(self, query_id: str, row: SessionRow) -> None:
        """Write a closed session with labels."""
        self._warm.put(rows.session_key(query_id), rows.pack_warm(self._expiry_ts(row), row))

    def _expiry_ts(self, row: SessionRow) -> int:
        until_ts = row.event_ts + self._attribution_ms
        for line in row.labels.order_lines.values():
            if line.action == "purchase":
                until_ts = max(until_ts, line.event_ts + self._refund_ms)
        return until_ts + self._slack_ms

    def add_unlabelled(self, query_id: str, parts: Collection[ListPart], close_ts: int) -> None:
        """Remember a query that closed without a label, and the parts of its list."""
        self._add_query(_UNLABELLED, query_id, parts, close_ts)
        for part in parts:
            if not part.is_whole:
                self._add_digest(_UNLABELLED, _part(query_id, part.event_id), close_ts)

    def add_evicted(self, query_id: str, parts: Collection[ListPart], watermark_ts: int) -> None:
        """Remember a closed session that was dropped for space."""
        self._add_query(_EVICTED, query_id, parts, watermark_ts)

    def _add_query(self, kind: bytes, query_id: str, parts: Collection[ListPart], ts: int) -> None:
        self._add_digest(kind, query_id, ts)
        if _are_parts_only(parts):
            self._add_digest(kind, _no_whole(query_id), ts)

    def discard_correction(self, query_id: str) -> None:
        """Drop the correction of a session that is written anew."""
        self._corrected.pop(query_id, None)

    def take_corrected(self) -> Iterable[ClosedSession]:
        """Return the sessions that the micro-batch has corrected, and forget them."""
        corrected = list(self._corrected.values())
        self._corrected.clear()
        return corrected

    def restore(self, stored: Iterable[tuple[bytes, bytes]]) -> None:
        """Index the rows that hold digests, all rows of one hour at once.

        Queries that closed after the progress row close again. Evicted rows do not come back.
        """
        packed: dict[tuple[bytes, int], bytearray] = {}
        for key, value in stored:
            if key[:1] == _UNLABELLED and _batch_number(key) >= self._batches.current:
                self._warm.delete(key)
            elif key[:1] in self._digests:
                packed.setdefault((key[:1], _hour(key)), bytearray()).extend(rows.unpack_bytes(value))
        for (kind, hour), digests in packed.items():
            self._digests[kind].add_packed(hour, digests)

    def forget(self, key: bytes) -> None:
        """Forget the digests of a deleted row, if it held any."""
        if key[:1] in self._digests:
            self._digests[key[:1]].forget(_hour(key))

    def flush(self) -> None:
        """Write the digests of the micro-batch into the warm tier."""
        for (kind, hour), digests in self._new_digests.items():
            key = rows.closed_key(kind, self._partition, hour, self._batches.current)
            expiry_ts = (hour + 1) * HOUR_MS + self._attribution_ms
            self._warm.put(key, rows.pack_bytes(expiry_ts, query_digests.pack(digests)))
        self._new_digests.clear()

    def _has_digest(self, kind: bytes, query_id: str, event_ts: int) -> bool:
        # The hours whose rows expire after the event and have not expired yet.
        from_ts = max(event_ts, self._warm.expired_ts) - self._attribution_ms
        return self._digests[kind].has(query_id, from_ts // HOUR_MS)

    def _add_digest(self, kind: bytes, query_id: str, ts: int) -> None:
        hour = ts // HOUR_MS
        value = query_digests.digest(query_id)
        self._digests[kind].add(hour, value)
        self._new_digests.setdefault((kind, hour), []).append(value)


def _hour(key: bytes) -> int:
    return int(key.split(b":")[1])


def _batch_number(key: bytes) -> int:
    return int(key.split(b":")[2])


def _part(query_id: str, event_id: str) -> str:
    return f"{query_id}\0{event_id}"


def _no_whole(query_id: str) -> str:
    # No event id is empty, so no part of the query has this text.
    return _part(query_id, "")


def _are_parts_only(parts: Collection[ListPart]) -> bool:
    """Return whether each impression of a list names positions."""
    return bool(parts) and not any(part.is_whole for part in parts)
