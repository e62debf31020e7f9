"""Keys and values of the rows that the join keeps, in two tiers and one progress row.

| tier | key | value |
|---|---|---|
| hot | `i` query | offset, event id, list payload of the session; written once |
| hot | `j` offset : query | the same of a further part of the list |
| hot | `l` query | labels of an open query |
| hot | `w` partition : topic : offset : line | offset, append_ts, raw event that waits |
| warm | `s` query | expiry, a clicked or bought session: labels, revision, list payload |
| warm | `t` client, item | expiry, newest clicks of the client on the item |
| warm | `o` client, transaction | expiry, the query that each line of an order joined |
| warm | `c`, `e` partition : hour : batch | expiry, 8-byte digests of queries closed without a label, or evicted |
| warm | `p` client | expiry, the profile as emitted |
| progress | partition | positions, clocks and counters; the commit record of all other rows |

Source: docs/stream.md, Memory.
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
    """A raw record with its coordinates."""

    topic: str
    partition: int
    offset: int
    append_ts: int
    raw: bytes


class ImpressionRow(Struct, frozen=True, array_like=True):
    """An impression of an open query; `list_payload` holds the fields of its session that describe the list."""

    offset: int
    event_id: str
    list_payload: bytes


class SessionRow(Struct, array_like=True):
    """A closed session that may still be corrected; `list_payload` is the part that describes the list."""

    revision: int
    event_ts: int
    client_id: str
    n: int
    labels: Labels
    list_payload: bytes
    close_ts: int


class ItemClick(Struct, frozen=True, array_like=True):
    """A click of a client on an item, which a conversion without `query_id` may join."""

    event_ts: int
    event_id: str
    query_id: str
    impression_ts: int


class OrderLineRow(Struct, frozen=True, array_like=True):
    """The query that an order line joined, and the record of the line with its index there.

    An event from `expiry_ts` on does not see the line, however long the other lines keep their row.
    """

    query_id: str
    item: int
    event_ts: int
    event_id: str
    offset: int
    line: int
    link: str
    expiry_ts: int


class OrderRow(Struct, frozen=True, array_like=True):
    """The joined lines of an order by line id."""

    lines: dict[str, OrderLineRow]


class ProgressRow(Struct, array_like=True):
    """Positions of the join in its inputs, with the clocks and counters at these positions."""

    batch_number: int
    now_ts: int
    watermark_ts: int
    conversions_ts: int
    next_offsets: dict[str, int]
    newest_ts: dict[str, int]
    ends: dict[str, int]
    last_advance_ts: dict[str, int]
    counters: dict[str, int]
    reported_ts: int
    reported_watermark_ts: int
    health: bytes
    reported_expiry_ts: int = 0
    tails: dict[str, int] = {}


_impressions = msgspec.msgpack.Decoder(ImpressionRow)
_labels = msgspec.msgpack.Decoder(Labels)
_sessions = msgspec.msgpack.Decoder(SessionRow)
_clicks = msgspec.msgpack.Decoder(list[ItemClick])
_orders = msgspec.msgpack.Decoder(OrderRow)
_progress = msgspec.msgpack.Decoder(ProgressRow)


def impression_key(query_id: str) -> bytes:
    """Return the key of an open query's impression."""
    return b"i" + query_id.encode()


def part_key(query_id: str, offset: int) -> bytes:
    """Return the key of a further part of an open query's list."""
    return f"j{offset}:{query_id}".encode()


def query_of_part(key: bytes) -> str:
    """Return the query in the key of a further part."""
    return key.partition(b":")[2].decode()


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


def order_key(client_id: str, transaction_id: str) -> bytes:
    """Return the key of an order."""
    return f"o{client_id}\0{transaction_id}".encode()


def profile_key(client_id: str) -> bytes:
    """Return the key of a client's profile."""
    return b"p" + client_id.encode()


def closed_key(kind: bytes, partition: int, hour: int, batch_number: int) -> bytes:
    """Return the key of a bucket of query digests; `kind` is `c` (closed) or `e` (evicted)."""
    return kind + f"{partition}:{hour}:{batch_number}".encode()


def pack_impression(row: ImpressionRow) -> bytes:
    """Return the value of an `i` or `j` row."""
    return _encoder.encode(row)


def unpack_impression(value: bytes) -> ImpressionRow:
    """Return the impression in an `i` or `j` row."""
    return _impressions.decode(value)


def pack_waiting(source: Source, joined_by: int = -1) -> bytes:
    """Return the value of a `w` row; `joined_by` is the offset of the impression that ended the wait, or -1."""
    return _WAITING.pack(source.offset, source.append_ts, joined_by) + source.raw


def unpack_waiting(key: bytes, value: bytes) -> tuple[Source, int, int]:
    """Return the record in a `w` row, the line, and the offset of the impression that ended the wait."""
    partition, topic, _, line = key[1:].decode().split(":")
    offset, append_ts, joined_by = _WAITING.unpack_from(value)
    return Source(topic, int(partition), offset, append_ts, value[_WAITING.size :]), int(line), joined_by


def pack_labels(labels: Labels) -> bytes:
    """Return the value of an `l` row."""
    return _encoder.encode(labels)


def unpack_labels(value: bytes) -> Labels:
    """Return the labels in an `l` row."""
    return _labels.decode(value)


def expiry_of(value: bytes) -> int:
    """Return the time after which a warm row is superfluous."""
    expiry_ts: int = _EXPIRY.unpack_from(value)[0]
    return expiry_ts


def pack_warm(expiry_ts: int, content: SessionRow | list[ItemClick] | OrderRow) -> bytes:
    """Return the value of an `s`, `t` or `o` row."""
    return _EXPIRY.pack(expiry_ts) + _encoder.encode(content)


def pack_bytes(expiry_ts: int, content: bytes) -> bytes:
    """Return the value of a `c`, `e` or `p` row."""
    return _EXPIRY.pack(expiry_ts) + content


def unpack_bytes(value: bytes) -> bytes:
    """Return the content of a `c`, `e` or `p` row."""
    return value[EXPIRY_BYTES:]


def unpack_session(value: bytes) -> SessionRow:
    """Return the closed session in an `s` row."""
    return _sessions.decode(memoryview(value)[EXPIRY_BYTES:])


def unpack_clicks(value: bytes) -> list[ItemClick]:
    """Return the clicks in a `t` row."""
    return _clicks.decode(memoryview(value)[EXPIRY_BYTES:])


def unpack_order(value: bytes) -> OrderRow:
    """Return the joined lines of an order in an `o` row."""
    return _orders.decode(memoryview(value)[EXPIRY_BYTES:])


def pack_progress(row: ProgressRow) -> bytes:
    """Return the value of the progress row."""
    return _encoder.encode(row)


def unpack_progress(value: bytes) -> ProgressRow:
    """Return the progress row."""
    return _progress.decode(value)
