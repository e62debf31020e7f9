"""Lists that come in parts: one list payload of the impressions that show a page together.

Parts may show the same item at the same position. The first part in the order of (event_ts, event_id) decides what the
parts have in common, so the order of arrival does not matter.

Source: docs/stream.md, Lists in parts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from stream.errors import SchemaError
from stream.join.rows import ImpressionRow
from stream.join.sessions import ListPayload
from stream.schemas import session
from stream.schemas.events import MAX_ITEMS, PRODUCT, Impression

_COLUMNS = ("rank_in", "price_minor", "score", "propensity")
_NO_FEATURES = {
    "feature_schema": b"",
    "item_f16": b"",
    "context_f16": b"",
    "hist_item": [],
    "hist_category": [],
    "hist_action": b"",
    "hist_age_s": b"",
    "hist_pages": [],
}
# The fields of the payload stand in the session schema, so a type checker does not know them.
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ListPayload)
_encoder = msgspec.msgpack.Encoder()


def places_of(impression: Impression) -> dict[int, str]:
    """Return the item at each position that an impression shows."""
    items = impression.items
    return dict(zip(items.position or range(1, len(items.object_id) + 1), items.object_id, strict=True))


def shown_places(list_payload: bytes) -> dict[int, str]:
    """Return the item at each position that a list payload shows."""
    payload = _decoder.decode(list_payload)
    return dict(zip(_positions(payload), payload.item_id, strict=True))


def check_agreement(query_id: str, known: Mapping[int, str], new: Mapping[int, str]) -> None:
    """Refuse a part that contradicts the known ones.

    Raises:
        SchemaError: If a position has another item, or the list would have too many items.
    """
    for position, item_id in new.items():
        if known.get(position, item_id) != item_id:
            detail = f"query {query_id} shows '{known[position]}' at position {position}, not '{item_id}'"
            raise SchemaError("conflicting_impression", detail)
    n = len(known) + sum(position not in known for position in new)
    if n > MAX_ITEMS:
        raise SchemaError("bad_value", f"items: {n} in the parts of query {query_id}, expected at most {MAX_ITEMS}")


def merged(parts: Iterable[ImpressionRow], until_ts: int | None = None) -> bytes:
    """Return the list payload of the items of all parts in the order of their positions.

    Args:
        parts: The parts.
        until_ts: Parts of a later time do not count.
    """
    ordered = sorted(
        ((_decoder.decode(part.list_payload), part.event_id) for part in parts),
        key=lambda part: (part[0].impression_ts, part[1]),
    )
    if until_ts is not None:
        ordered = [part for part in ordered if part[0].impression_ts <= until_ts]
    payloads = [payload for payload, _ in ordered]
    impressions = [each for payload, event_id in ordered for each in payload.parts or [_whole(payload, event_id)]]
    shown: dict[int, tuple[int, int]] = {}
    for number, payload in enumerate(payloads):
        for index, position in enumerate(_positions(payload)):
            shown.setdefault(position, (number, index))
    positions = sorted(shown)
    rows = [shown[position] for position in positions]
    columns = {name: _column(payloads, name, rows) for name in _COLUMNS}
    types: list[list[str]] = [payload.item_type or [PRODUCT] * payload.n for payload in payloads]
    has_types = any(payload.item_type for payload in payloads)
    return _encoder.encode(
        replace(
            payloads[0],
            n=len(positions),
            parts=impressions,
            item_id=[payloads[number].item_id[index] for number, index in rows],
            item_type=[types[number][index] for number, index in rows] if has_types else [],
            position=session.pack("position", positions),
            **columns,
            **_features(payloads, rows),
        )
    )


def _whole(payload: Any, event_id: str) -> session.ListPart:
    """Return the entry of an impression without positions."""
    return session.ListPart(payload.impression_ts, event_id, payload.src[1], is_whole=True)


def _positions(payload: Any) -> Sequence[int]:
    position: bytes = payload.position
    n: int = payload.n
    return session.unpack("position", position).tolist() if position else range(1, n + 1)


def _column(payloads: Sequence[Any], name: str, rows: Sequence[tuple[int, int]]) -> bytes:
    """Return a column of the merged list, empty unless each part has it."""
    raw: list[bytes] = [getattr(payload, name) for payload in payloads]
    return _rows(raw, int(session.COLUMNS[name].dtype[-1]), rows) if all(raw) else b""


def _features(payloads: Sequence[Any], rows: Sequence[tuple[int, int]]) -> dict[str, object]:
    """Return the features of the merged list: none unless each part has them in one schema."""
    raw: list[bytes] = [payload.item_f16 for payload in payloads]
    lengths: list[int] = [payload.n for payload in payloads]
    widths = {len(each) // n for each, n in zip(raw, lengths, strict=True)}
    schemas = {payload.feature_schema for payload in payloads}
    if schemas == {b""} or len(schemas) > 1 or len(widths) > 1:
        return dict(_NO_FEATURES)
    return {"item_f16": _rows(raw, widths.pop(), rows)}


def _rows(raw: Sequence[bytes], width: int, rows: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(raw[number][width * index : width * (index + 1)] for number, index in rows)
