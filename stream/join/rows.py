"""Keys and values of the rows that the join keeps, in two tiers and one progress row.

| tier | key | value |
|---|---|---|
| hot | `i` query | offset, event id, list part of the session; written once |
| hot | `l` query | labels of an open query |
| hot | `w` partition : topic : offset : line | offset, append_ts, raw event that waits |
| warm | `s` query | expiry, a clicked or bought session: labels, revision, list part |
| warm | `t` client, item | expiry, newest clicks of the client on the item |
| warm | `o` client, transaction, line | expiry, the query that an order line was joined to |
| warm | `c`, `e` partition : hour : slice | expiry, 8-byte digests of queries closed without a click, or evicted |
| warm | `p` client | expiry, the profile as it was emitted |
| progress | partition | position, clocks and counters; the commit record of everything else |

Source: STREAM.md 5.
"""

import struct

import msgspec
from msgspec import Struct

from stream.join.labels import Labels

_WAITING = struct.Struct("<qqq")
_EXPIRY = struct.Struct("<q")
EXPIRY_BYTES = _EXPIRY.size
_encoder = msgspec.msgpack.Encoder()


class Source(Struct, frozen=True):
    """Where a raw record came from."""

    offset: int
    append_ts: int
    raw: bytes


class ShownList(Struct, frozen=True, array_like=True):
    """An open query's impression; `part` is what its session will say of the list."""

    offset: int
    event_id: str
    part: bytes


class WarmSession(Struct, array_like=True):
    """A closed session that may still be corrected; `part` is what it says of the list."""

    revision: int
    event_ts: int
    client_id: str
    n: int
    labels: Labels
    part: bytes


class ItemClick(Struct, frozen=True, array_like=True):
    """One click of a client on an item, as a conversion without `query_id` looks for it."""

    event_ts: int
    event_id: str
    query_id: str
    impression_ts: int


class Order(Struct, frozen=True, array_like=True):
    """The query that an order line was joined to, and the record that did it."""

    query_id: str
    item: int
    event_ts: int
    event_id: str
    offset: int
    link: str


class ProgressRow(Struct, array_like=True):
    """Position of the join in its inputs with everything that was counted up to there."""

    batch_number: int
    now_ts: int
    watermark_ts: int
    conversions_ts: int
    next: dict[str, int]
    high: dict[str, int]
    hw: dict[str, int]
    grown_ts: dict[str, int]
    counters: dict[str, int]
    emitted_ts: int
    emitted_watermark_ts: int
    health: bytes
    emitted_expiry_ts: int = 0


_shown = msgspec.msgpack.Decoder(ShownList)
_labels = msgspec.msgpack.Decoder(Labels)
_sessions = msgspec.msgpack.Decoder(WarmSession)
_clicks = msgspec.msgpack.Decoder(list[ItemClick])
_orders = msgspec.msgpack.Decoder(Order)
_progress = msgspec.msgpack.Decoder(ProgressRow)


def impression_key(query_id: str) -> bytes:
    """Return the key of an open query's impression."""
    return b"i" + query_id.encode()


def labels_key(query_id: str) -> bytes:
    """Return the key of an open query's labels."""
    return b"l" + query_id.encode()


def waiting_key(partition: int, topic: str, offset: int, line: int) -> bytes:
    """Return the key of a waiting event, or of one line of a waiting conversion."""
    return f"w{partition}:{topic}:{offset}:{line}".encode()


def session_key(query_id: str) -> bytes:
    """Return the key of a closed session."""
    return b"s" + query_id.encode()


def clicks_key(client_id: str, item_id: str) -> bytes:
    """Return the key of a client's clicks on an item."""
    return f"t{client_id}\0{item_id}".encode()


def order_key(client_id: str, transaction_id: str, line_id: str) -> bytes:
    """Return the key of an order line."""
    return f"o{client_id}\0{transaction_id}\0{line_id}".encode()


def profile_key(client_id: str) -> bytes:
    """Return the key of a client's profile."""
    return b"p" + client_id.encode()


def closed_key(kind: bytes, partition: int, hour: int, batch_number: int) -> bytes:
    """Return the key of a bucket of query digests; `kind` is `c` (closed) or `e` (evicted)."""
    return kind + f"{partition}:{hour}:{batch_number}".encode()


def pack_shown(shown: ShownList) -> bytes:
    """Return the value of an `i` row."""
    return _encoder.encode(shown)


def unpack_shown(value: bytes) -> ShownList:
    """Return the impression in an `i` row."""
    return _shown.decode(value)


def pack_waiting(source: Source, placed_by: int = -1) -> bytes:
    """Return the value of a `w` row; `placed_by` is the offset of the impression that settled it, -1 while it waits."""
    return _WAITING.pack(source.offset, source.append_ts, placed_by) + source.raw


def unpack_waiting(value: bytes) -> tuple[Source, int]:
    """Return the record in a `w` row, and the offset of the impression that settled it."""
    offset, append_ts, placed_by = _WAITING.unpack_from(value)
    return Source(offset, append_ts, value[_WAITING.size :]), placed_by


def pack_labels(labels: Labels) -> bytes:
    """Return the value of an `l` row."""
    return _encoder.encode(labels)


def unpack_labels(value: bytes) -> Labels:
    """Return the labels in an `l` row."""
    return _labels.decode(value)


def expiry_of(value: bytes) -> int:
    """Return the time after which a warm row is not needed."""
    expiry_ts: int = _EXPIRY.unpack_from(value)[0]
    return expiry_ts


def pack_warm(expiry_ts: int, content: WarmSession | list[ItemClick] | Order) -> bytes:
    """Return the value of an `s`, `t` or `o` row."""
    return _EXPIRY.pack(expiry_ts) + _encoder.encode(content)


def pack_bytes(expiry_ts: int, content: bytes) -> bytes:
    """Return the value of a `c`, `e` or `p` row."""
    return _EXPIRY.pack(expiry_ts) + content


def unpack_bytes(value: bytes) -> bytes:
    """Return the content of a `c`, `e` or `p` row."""
    return value[EXPIRY_BYTES:]


def unpack_session(value: bytes) -> WarmSession:
    """Return the closed session in an `s` row."""
    return _sessions.decode(memoryview(value)[EXPIRY_BYTES:])


def unpack_clicks(value: bytes) -> list[ItemClick]:
    """Return the clicks in a `t` row."""
    return _clicks.decode(memoryview(value)[EXPIRY_BYTES:])


def unpack_order(value: bytes) -> Order:
    """Return the link in an `o` row."""
    return _orders.decode(memoryview(value)[EXPIRY_BYTES:])


def pack_progress(row: ProgressRow) -> bytes:
    """Return the value of the progress row."""
    return _encoder.encode(row)


def unpack_progress(value: bytes) -> ProgressRow:
    """Return the progress row."""
    return _progress.decode(value)
