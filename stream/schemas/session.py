"""Sessions, progress records and unlinked order lines of the topic `sessions`, and their msgpack codec.

A session is one query with its whole list and its labels. Its numeric columns are raw little-endian bytes, so that a
reader turns 30 items into arrays in microseconds; an absent column is empty bytes. `COLUMNS` names dtype and shape of
each. A progress record carries the watermark, the maturity and the training holds of a partition. An unlinked line is
an order line that joined no session.

Source: docs/stream.md.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import fields
from numpy.typing import NDArray

from stream.errors import SchemaError
from stream.schemas.events import Slice
from stream.schemas.money import NO_CURRENCY

SCHEMA_VERSION = 1
CLOSE = "close"
"""Reason of the first record of a session; later ones are corrections."""
ACTION_CODES = {"view": 0, "click": 1, "add_to_cart": 2, "purchase": 3}


class Evidence(Struct, frozen=True, array_like=True):
    """A merged event behind a label; `link` is `query_id`, `last_click` or `inferred`, `source` wrote the event."""

    event_id: str
    action: str
    item: int
    event_ts: int
    append_ts: int
    topic: str
    partition: int
    offset: int
    link: str
    source: str = ""


class Line(Struct, frozen=True, array_like=True):
    """A merged order line, or its cancellation or refund."""

    transaction_id: str
    line_id: str
    refund_id: str
    action: str
    item: int
    quantity: int
    amount_minor: int
    currency: str
    event_ts: int


class _OrderLine(Protocol):
    @property
    def transaction_id(self) -> str: ...
    @property
    def line_id(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def item(self) -> int: ...
    @property
    def amount_minor(self) -> int: ...


def refunds(lines: Iterable[_OrderLine]) -> Iterator[tuple[int, int]]:
    """Yield item and money of each cancelled or refunded order line, in total never more than its purchase.

    Args:
        lines: Lines in one currency: purchases, and their cancellations and refunds.
    """
    bought: dict[tuple[str, str], int] = {}
    returned: dict[tuple[str, str, int], int] = {}
    for line in lines:
        if line.action == "purchase":
            bought[line.transaction_id, line.line_id] = line.amount_minor
        else:
            key = (line.transaction_id, line.line_id, line.item)
            returned[key] = returned.get(key, 0) + line.amount_minor
    for (transaction_id, line_id, item), amount_minor in returned.items():
        yield item, min(amount_minor, bought.get((transaction_id, line_id), amount_minor))


class AssignedArm(Struct, frozen=True, array_like=True):
    """The assignment of one layer at the time when the list was served."""

    layer: str
    experiment: str
    epoch: int
    arm: str
    bucket: int


class ListPart(Struct, frozen=True, array_like=True, order=True):
    """An impression of a list that several impressions show.

    Attributes:
        is_whole: Whether the impression names no positions: it shows a list from its first position on.
    """

    event_ts: int
    event_id: str
    offset: int
    is_whole: bool = False


def _column(dtype: str, *shape: str) -> Meta:
    description = f"Numbers of dtype {dtype}, shape ({', '.join(shape)}); empty if absent."
    return Meta(description=description, extra={"dtype": dtype, "shape": shape})


class Session(Struct, kw_only=True, tag_field="kind", tag="session"):
    """One query with its whole list, its labels and the evidence for them, as of `revision`.

    Shapes: n items in shown order, f item features, c context features, h behaviours of the history, k changed items.
    Units: `_minor` integers in minor units, `_ms` milliseconds, -1 = no such event.

    Attributes:
        source: Program that wrote the impression.
        impression_ts: Time of the impression, of parts that of the first one.
        close_ts: End of the click window, which the last part begins.
        src: Partition and offset of the impression, of parts those of the first one.
        parts: The impressions that show the list; empty if one impression without positions shows all of it.
        latency_us: Time that ranking took; 0 if unknown.
        hist_pages: First items of the client's clicked pages, newest first.
        slice: Part of the lineage's clients while one of its versions was a canary; None for the others.
        item_type: Type of each item; empty if all are of type `product`.
        position: Position of each item on the page; empty for 1 to n.
        list_currency: The currency that the impression names; `XXX` = unknown.
        currency: The currency of `gross_minor` and `refund_minor`: that of the list or, where that is unknown, of the
            order lines. Lines in another currency are in `lines` only.
    """

    schema_version: int = SCHEMA_VERSION
    query_id: str
    client_id: str
    session_id: str | None
    user_id: str | None
    revision: int
    reason: str
    label_key: bytes
    impression_ts: int
    close_ts: int
    watermark_ts: int
    src: tuple[int, int]
    source: str = ""
    parts: list[ListPart] = []

    query_hash: str
    query_category: str | None
    list_currency: str = NO_CURRENCY
    currency: str
    assignment: list[AssignedArm]
    lineage: str | None
    version: str | None
    fallback: str | None
    triggered: bool | None
    latency_us: int = 0
    slice: Slice | None = None

    n: int
    item_id: list[str]
    item_type: list[str] = []
    position: Annotated[bytes, _column("<u4", "n")] = b""
    rank_in: Annotated[bytes, _column("<u2", "n")]
    score: Annotated[bytes, _column("<f4", "n")]
    price_minor: Annotated[bytes, _column("<i8", "n")]
    propensity: Annotated[bytes, _column("<f4", "n")]

    feature_schema: bytes
    item_f16: Annotated[bytes, _column("<f2", "n", "f")]
    context_f16: Annotated[bytes, _column("<f2", "c")]
    hist_item: list[str]
    hist_category: list[str]
    hist_action: Annotated[bytes, _column("<u1", "h")]
    hist_age_s: Annotated[bytes, _column("<u4", "h")]
    hist_pages: list[list[str]] = []

    clicks: Annotated[bytes, _column("<u2", "n")]
    carts: Annotated[bytes, _column("<u2", "n")]
    orders: Annotated[bytes, _column("<u2", "n")]
    units: Annotated[bytes, _column("<u4", "n")]
    click_delay_ms: Annotated[bytes, _column("<i8", "n")]
    order_delay_ms: Annotated[bytes, _column("<i8", "n")]
    gross_minor: Annotated[bytes, _column("<i8", "n")]
    refund_minor: Annotated[bytes, _column("<i8", "n")]
    changed: Annotated[bytes, _column("<u2", "k")]

    events: list[Evidence]
    lines: list[Line]

    def column(self, name: str) -> NDArray[Any]:
        """Return a numeric column as an array that shares the bytes of the session; `item_f16` is not reshaped."""
        return unpack(name, getattr(self, name))


class Column(NamedTuple):
    """The dtype of a numeric column, and the names of its dimensions."""

    dtype: str
    shape: tuple[str, ...]


COLUMNS: Mapping[str, Column] = {
    field.name: Column(**meta.extra) for field in fields(Session) for meta in getattr(field.type, "__metadata__", ())
}
"""Numeric column of a session to its dtype and shape."""

_STRUCT_CODES = {"<u1": "B", "<u2": "H", "<u4": "I", "<i8": "q", "<f4": "f"}


def pack(name: str, values: Sequence[float]) -> bytes:
    """Return the bytes of a column; integers beyond its dtype become its largest one.

    >>> pack("clicks", [1, 256, 70_000]).hex()
    '01000001ffff'
    """
    try:
        return packer(name, len(values))(*values)
    except struct.error:
        most = int(np.iinfo(COLUMNS[name].dtype).max)
        return packer(name, len(values))(*(min(value, most) for value in values))


def unpack(name: str, raw: bytes) -> NDArray[Any]:
    """Return the numbers of a column.

    >>> unpack("changed", bytes([2, 0, 5, 0])).tolist()
    [2, 5]
    """
    return np.frombuffer(raw, dtype=COLUMNS[name].dtype)


@lru_cache(maxsize=4_096)
def packer(name: str, n: int) -> Callable[..., bytes]:
    """Return the function that packs a column of `n` numbers; it raises struct.error beyond the dtype."""
    return struct.Struct(f"<{n}{_STRUCT_CODES[COLUMNS[name].dtype]}").pack


class Progress(Struct, kw_only=True, tag_field="kind", tag="progress"):
    """The progress of one partition of the join; sent to the same partition of `sessions`.

    Attributes:
        watermark_ts: The join expects no event at or before this time.
        matured_ts: The attribution window of sessions with `impression_ts` up to this time has passed.
        now_ts: Time of the newest tick.
        counters: Outcome or reason to count in this partition, since the start of the topics.
        coverage: Share of clicks on known queries that came before their session closed.
        ctr: Share of closed sessions with a label.
        join_rate: Share of clicks that found their list.
        hold: Names of the active training holds; empty lets training continue.
    """

    schema_version: int = SCHEMA_VERSION
    partition: int
    watermark_ts: int
    matured_ts: int
    now_ts: int
    counters: dict[str, int]
    coverage: float = 1.0
    ctr: float = 0.0
    join_rate: float = 1.0
    hold: list[str] = []


class UnlinkedLine(Struct, kw_only=True, tag_field="kind", tag="unlinked_line"):
    """An order line that joined no session; its key is the client.

    Attributes:
        refund_id: Tells the reversals of one line apart; empty for a purchase.
        object_id: The product. A reversal of `*` is one of each line of the transaction that has no reversal with this
            refund id.
        amount_minor: Total of the line, never negative: the action gives the sign.
        reason: Reason why the line joined no session, as in `unjoined`; empty for a reversal of `*` that joined some.
        source: Program that wrote the conversion.
        src: Partition and offset of the conversion.
    """

    schema_version: int = SCHEMA_VERSION
    client_id: str
    session_id: str | None
    user_id: str | None
    event_id: str
    event_ts: int
    append_ts: int
    transaction_id: str
    line_id: str
    refund_id: str
    action: str
    object_id: str
    quantity: int
    amount_minor: int
    currency: str
    reason: str
    source: str
    src: tuple[int, int]

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Return client, transaction, line and refund id, under which copies and joined lines are the same line."""
        return self.client_id, self.transaction_id, self.line_id, self.refund_id


SessionsRecord = Session | Progress | UnlinkedLine
"""A record of the topic `sessions`."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[SessionsRecord] = msgspec.msgpack.Decoder(SessionsRecord)


def encode(record: SessionsRecord) -> bytes:
    """Return the msgpack bytes of a record of the topic `sessions`."""
    return _encoder.encode(record)


def decode(raw: bytes) -> SessionsRecord:
    """Return the record in `raw`.

    Raises:
        SchemaError: If it is no record of a known kind and major version.
    """
    try:
        record = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise SchemaError("wrong_type", f"sessions record: {error}") from error
    if record.schema_version != SCHEMA_VERSION:
        raise SchemaError(
            "schema_unknown", f"sessions record: schema_version {record.schema_version}, known {SCHEMA_VERSION}"
        )
    return record
