"""Returns a join to what its progress row claims, whatever rows run ahead of it.

Rows ahead come from slices that were in flight when the process died. Impressions and waiting events ahead are
dropped, as their records will be read again; labels ahead stay, as merging their records again changes nothing.
What was settled is told from the rows alone: by the watermark, or by the impression that a waiting row names.

Source: STREAM.md 5.
"""

from stream.join import rows, sessions
from stream.join.labels import Labels
from stream.join.state import OpenQuery, State, Waiting
from stream.join.watermark import Clock
from stream.schemas import decode, topics
from stream.schemas.events import Click, Conversion


def restore(state: State, clock: Clock, *, window_ms: int, wait_ms: int) -> None:
    """Rebuild the indexes of `state` from its rows, given the clock of the progress row."""
    state.expired_ts = clock.expiry_ts
    hot = dict(state.hot.items())
    for key, value in hot.items():
        if key[:1] == b"i":
            labels = hot.get(b"l" + key[1:])
            query = _query(key, value, window_ms, rows.unpack_labels(labels) if labels is not None else None)
            if query.offset >= clock.next.get(topics.IMPRESSIONS, 0):
                state.retire(key)
                continue
            if query.close_ts > clock.watermark_ts:
                state.open_query(query)
            else:
                state.retire(key)
    for key, value in hot.items():
        if key[:1] == b"l" and key[1:].decode() not in state.open:
            state.retire(key)
        elif key[:1] == b"w":
            waiting, placed_by = _waiting(key, value, wait_ms)
            ahead = waiting.source.offset >= clock.next.get(waiting.topic, 0)
            was_placed = 0 <= placed_by < clock.next.get(topics.IMPRESSIONS, 0)
            if ahead or waiting.deadline_ts <= clock.watermark_ts or was_placed:
                state.retire(key)
            else:
                state.remember(key, waiting)
    for key, value in state.warm.items():
        if key[:1] in {b"c", b"e"}:
            state.learn_closed(key, value)


def click_deadline(click: Click, wait_ms: int) -> int:
    """Return when a click is decided: an inferred link needs only lists up to the click, and comes before the close."""
    return click.event_ts + 1 + (wait_ms if click.query_id is not None else 0)


def line_deadline(conversion: Conversion, wait_ms: int) -> int:
    """Return when an order line is decided."""
    return conversion.event_ts + 1 + wait_ms


def _query(key: bytes, value: bytes, window_ms: int, labels: Labels | None) -> OpenQuery:
    shown = rows.unpack_shown(value)
    known = sessions.identity(shown.part)
    return OpenQuery(
        query_id=key[1:].decode(),
        client_id=known.client_id,
        event_id=shown.event_id,
        event_ts=known.impression_ts,
        close_ts=known.impression_ts + window_ms,
        offset=shown.offset,
        n=known.n,
        labels=labels,
    )


def _waiting(key: bytes, value: bytes, wait_ms: int) -> tuple[Waiting, int]:
    _, topic, _, line = key.decode().split(":")
    source, placed_by = rows.unpack_waiting(value)
    if topic == topics.CLICKS:
        click = decode.click(source.raw)
        return Waiting(topic, click, int(line), source, click_deadline(click, wait_ms)), placed_by
    conversion = decode.conversion(source.raw)
    return Waiting(topic, conversion, int(line), source, line_deadline(conversion, wait_ms)), placed_by
