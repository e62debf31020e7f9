"""The rollback of a restarted join to its progress row.

Rows ahead of the progress row stem from micro-batches in flight at the crash. Impressions and waiting events ahead are
deleted before their records are read again: another interleaving of the topics may not write these rows, and a second
restart would take them for rows of the merged records. Labels ahead stay, as merging their records again changes
nothing. The rows alone tell which waiting events have an outcome: by the watermark, or by the impression that a waiting
row names.

Source: docs/stream.md, Behaviour under faults.
"""

from collections.abc import Iterator

from stream.join import list_parts, rows, sessions
from stream.join.clicks import click_deadline
from stream.join.closed_sessions import ClosedSessions
from stream.join.labels import Labels, joined_offset
from stream.join.open_queries import OpenQueries, OpenQuery, Part
from stream.join.orders import line_deadline
from stream.join.positions import Positions
from stream.join.settings import JoinSettings
from stream.join.tiers import HotTier, WarmTier
from stream.join.waiting_events import WaitingEvent, WaitingEvents
from stream.schemas import decode, topics
from stream.schemas.events import ALL_LINES, Click, Conversion

_Unit = tuple[str, int, str]
"""Topic, offset and line id of a click or an order line."""


def restore_hot(
    hot: HotTier,
    open_queries: OpenQueries,
    waiting_events: WaitingEvents,
    *,
    positions: Positions,
    watermark_ts: int,
    settings: JoinSettings,
) -> None:
    """Index the open queries and waiting events of the progress row, and delete all other rows."""
    stored = hot.stored_rows()
    waits: set[_Unit] = set()
    for key, value in stored.items():
        if key[:1] != b"w":
            continue
        waiting, joined_by = _waiting(key, value, settings)
        is_merged = positions.has_merged(waiting.source.topic, waiting.source.offset)
        has_joined = joined_by >= 0 and positions.has_merged(topics.IMPRESSIONS, joined_by)
        if is_merged and waiting.deadline_ts > watermark_ts and not has_joined:
            waiting_events.restore(key, waiting)
            waits.add(_unit(waiting))
        else:
            hot.delete(key)
    parts: dict[str, list[rows.ImpressionRow]] = {}
    for key, value in stored.items():
        if key[:1] == b"j":
            part = rows.unpack_impression(value)
            if positions.has_merged(topics.IMPRESSIONS, part.offset):
                parts.setdefault(rows.query_of_part(key), []).append(part)
            else:
                hot.delete(key)
    for key, value in stored.items():
        if key[:1] == b"i":
            packed = stored.get(b"l" + key[1:])
            labels = rows.unpack_labels(packed) if packed is not None else None
            query = _query(key, value, settings.click_window_s * 1_000, labels, parts.get(key[1:].decode(), []))
            is_open = query.close_ts + settings.clock_tolerance_ms > watermark_ts
            if is_open and positions.has_merged(topics.IMPRESSIONS, query.offset):
                query.num_joined = sum(
                    positions.has_merged(topic, offset)
                    and waits.isdisjoint({(topic, offset, line_id), (topic, offset, ALL_LINES)})
                    for topic, offset, line_id in _joined_units(labels)
                )
                open_queries.restore(query)
            else:
                hot.delete(key)
    for key in stored:
        if key[:1] == b"l" and open_queries.get(key[1:].decode()) is None:
            hot.delete(key)
        if key[:1] == b"j" and open_queries.get(rows.query_of_part(key)) is None:
            hot.delete(key)


def _unit(waiting: WaitingEvent) -> _Unit:
    line_id = waiting.event.items[waiting.line].line_id if isinstance(waiting.event, Conversion) else ""
    return (waiting.source.topic, waiting.source.offset, line_id)


def _joined_units(labels: Labels | None) -> Iterator[_Unit]:
    """Yield the units that joined an open query, also those whose records a restart reads again."""
    for click in labels.clicks.values() if labels is not None else ():
        yield (topics.CLICKS, joined_offset(click), "")
    for line in labels.order_lines.values() if labels is not None else ():
        yield (topics.CONVERSIONS, joined_offset(line), line.line_id)


def restore_warm(warm: WarmTier, closed_sessions: ClosedSessions, expiry_ts: int) -> None:
    """Index the digests of closed queries, and continue from the expiry time of the progress row."""
    warm.restore(expiry_ts)
    closed_sessions.restore(warm.stored_rows())


def _query(
    key: bytes, value: bytes, window_ms: int, labels: Labels | None, parts: list[rows.ImpressionRow]
) -> OpenQuery:
    row = rows.unpack_impression(value)
    known = sessions.list_key(row.list_payload)
    query = OpenQuery(
        query_id=key[1:].decode(),
        client_id=known.client_id,
        event_id=row.event_id,
        event_ts=known.impression_ts,
        close_ts=known.impression_ts + window_ms,
        offset=row.offset,
        n=known.n,
        is_whole=not known.position,
        labels=labels,
    )
    # Rows of a closed query of the same id may not be deleted yet.
    parts = [part for part in parts if part.offset > row.offset]
    if parts:
        query.places = list_parts.shown_places(row.list_payload)
    for part in sorted(parts, key=lambda each: each.offset):
        key_of_part = sessions.list_key(part.list_payload)
        query.is_whole |= not key_of_part.position
        query.add(
            Part(part.offset, part.event_id, key_of_part.impression_ts),
            list_parts.shown_places(part.list_payload),
            window_ms,
        )
    return query


def _waiting(key: bytes, value: bytes, settings: JoinSettings) -> tuple[WaitingEvent, int]:
    source, line, joined_by = rows.unpack_waiting(key, value)
    event = decode.event(source.topic, source.raw)
    if isinstance(event, Click):
        return WaitingEvent(event, line, source, click_deadline(event, settings)), joined_by
    assert isinstance(event, Conversion), f"a waiting record of topic '{source.topic}'"
    return WaitingEvent(event, line, source, line_deadline(event, settings)), joined_by
