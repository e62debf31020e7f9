"""Schemas of the records that travel on the topics, one struct per record, strictly typed.

Names follow OpenSearch UBI 1.3 and, for money, GA4. Times end in `_ts` and are epoch milliseconds UTC; money ends in
`_minor` and is an integer in minor units, never negative (the action gives the sign). Binary columns are
little-endian and base64 in JSON. Unknown fields are ignored by the structs; raw bytes are what the join keeps, so
nothing is lost.

Source: docs/stream.md.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from stream.schemas import money

SCHEMA_VERSION = 1
MAX_EVENT_BYTES = 64 * 1024
MAX_ITEMS = 200
MAX_PAGES = 5
MAX_PAGE_ITEMS = 6
"""Clicked pages of a profile, and items of each: the first ones that the page showed."""
PRODUCT = "product"
"""Type of an item that has no other one."""
ALL_LINES = "*"
"""`line_id` and `object_id` of the line that stands for all lines of a refunded or cancelled transaction."""
# Scores travel on as float32.
_F32_MAX = 3.4028234663852886e38

EventId = Annotated[str, Meta(min_length=1, max_length=64)]
QueryId = Annotated[str, Meta(min_length=1, max_length=64)]
ClientId = Annotated[str, Meta(min_length=1, max_length=128)]
ItemId = Annotated[str, Meta(min_length=1, max_length=256)]
Timestamp = Annotated[int, Meta(ge=0, le=2**53)]
Money = Annotated[int, Meta(ge=0, le=2**53)]
# In a pattern, $ matches before a line break at the end, too.
Currency = Annotated[str, Meta(pattern=rf"^{money.CODE}(?!\n)$")]
Position = Annotated[int, Meta(ge=1, le=100_000)]
PlacedAt = Annotated[int, Meta(ge=0, le=100_000)]
"""Position of an item of a part, as the page counts: from 1, or from 0."""
Score = Annotated[float, Meta(ge=-_F32_MAX, le=_F32_MAX)]
Offset = Annotated[int, Meta(ge=0, le=2**53)]
Bucket = Annotated[int, Meta(ge=0, le=9_999)]
ItemType = Annotated[str, Meta(pattern=r"^[a-z][a-z_]{0,31}(?!\n)$")]
SourceName = Annotated[str, Meta(max_length=64)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]
Slice = Literal["canary", "control"]
"""Part of a lineage's clients while one of its versions is a canary."""
SchemaVersion = Annotated[int, Meta(ge=1)]


def _written_version() -> int:
    # msgspec leaves plain defaults out; what comes from a factory is always written, as a version must be.
    return SCHEMA_VERSION


def _written_action() -> Literal["impression"]:
    return "impression"


class Query(Struct, kw_only=True, omit_defaults=True):
    """The search request of an impression; `hash` is a keyed hash of the text, never the text."""

    hash: Annotated[str, Meta(min_length=1, max_length=128)]
    category: str | None = None
    page: Annotated[int, Meta(ge=1)] = 1
    total_hits: Annotated[int, Meta(ge=0)] | None = None


class History(Struct, kw_only=True):
    """The client's behaviours as served, newest first, at most 50; columns of equal length.

    Attributes:
        pages: First items of the client's clicked pages, the page that was shown last first; at most 5 pages of 6.
    """

    object_id: list[str]
    action: list[str]
    age_s: list[Annotated[int, Meta(ge=0)]]
    category: list[str]
    pages: list[list[str]] = []


class Features(Struct, kw_only=True):
    """Features as served, so that training needs no later look-up.

    Attributes:
        schema: sha256 of the feature schema, 64 hex digits.
        item_f16: float16[n x f] little-endian, rows in shown order.
        context_f16: float16[c] little-endian.
    """

    schema: Sha256
    item_f16: bytes
    context_f16: bytes
    history: History


class Assignment(Struct, kw_only=True, frozen=True):
    """One layer's decision for the client of an impression."""

    layer: str
    experiment: str
    arm: str
    epoch: int
    bucket: Bucket


class ShownItems(Struct, kw_only=True, omit_defaults=True):
    """The list in shown order, or a part of it. Columns have equal length n <= 200.

    Attributes:
        position: Position of each item on the page, increasing, where the list comes in parts; absent for a whole list,
            whose positions are 1 to n.
        type: Type of each item, such as `product`, `sponsored`, `video` or `card`; absent if all are of type `product`.
    """

    object_id: Annotated[list[ItemId], Meta(min_length=1, max_length=MAX_ITEMS)]
    rank_in: list[Position]
    price_minor: list[Money]
    score: list[Score] | None = None
    propensity: list[Annotated[float, Meta(gt=0, le=1)]] | None = None
    type: list[ItemType] | None = None
    position: list[PlacedAt] | None = None


class Event(Struct, kw_only=True, omit_defaults=True):
    """Fields common to impressions, clicks and conversions.

    Attributes:
        event_id: Made once at the source (UUIDv7) and kept on retries; identity for deduplication.
        event_ts: Time at the source.
        client_id: Pseudonym of the visitor; the Kafka key.
        session_id: The browsing visit (UBI), never a search session.
        source: Program that wrote the event.
    """

    schema_version: SchemaVersion = field(default_factory=_written_version)
    event_id: EventId
    event_ts: Timestamp
    client_id: ClientId
    session_id: str | None = None
    user_id: str | None = None
    source: SourceName
    attributes: dict[str, object] | None = None


class Impression(Event, kw_only=True, omit_defaults=True):
    """The ranked list as shown for one query, or a part of it: one record per response."""

    action_name: Literal["impression"] = field(default_factory=_written_action)
    query_id: QueryId
    query: Query
    currency: Currency
    items: ShownItems
    features: Features | None = None
    assignment: list[Assignment] = []
    lineage: str | None = None
    version: str | None = None
    slice: Slice | None = None
    fallback: str | None = None
    triggered: bool | None = None
    latency_us: Annotated[int, Meta(ge=0, le=2**53)] = 0


class Click(Event, kw_only=True, omit_defaults=True):
    """A click or a cart addition on one item of a list."""

    action_name: Literal["click", "add_to_cart"]
    query_id: QueryId | None = None
    object_id: ItemId
    position: Position | None = None


class OrderLine(Struct, kw_only=True, omit_defaults=True):
    """One line of an order: `amount_minor` is the total of the line."""

    line_id: Annotated[str, Meta(min_length=1, max_length=64)]
    object_id: ItemId
    quantity: Annotated[int, Meta(ge=1)]
    amount_minor: Money
    query_id: QueryId | None = None


class Conversion(Event, kw_only=True, omit_defaults=True):
    """A purchase, cancellation or refund of order lines; each line is a unit of counting.

    A refund or cancellation of a whole transaction has one line with `line_id` and `object_id` "*", which stands for
    each purchased line of the transaction. Its amount is the total if known, else 0, and counts nowhere: each line
    is returned with its own quantity and amount.
    """

    action_name: Literal["purchase", "cancel", "refund"]
    query_id: QueryId | None = None
    transaction_id: Annotated[str, Meta(min_length=1, max_length=128)]
    refund_id: str | None = None
    currency: Currency
    value_minor: Money | None = None
    items: Annotated[list[OrderLine], Meta(min_length=1, max_length=MAX_ITEMS)]


class Tick(Struct, kw_only=True, omit_defaults=True):
    """The clock of one partition.

    Attributes:
        pos: Topic to the next offset that the writer had read; information only.
        hw: Topic to its high watermark when the tick was written: the join is caught up once it has read so far.
        tail: Topic to the offset after its newest record before `hw`, where the writer has read up to `hw`. The offsets
            from there on belong to transaction markers and aborted records.
        now_ts: The driver's clock, in replays and simulations; else the record's `append_ts` is the clock.
    """

    schema_version: SchemaVersion = field(default_factory=_written_version)
    partition: Annotated[int, Meta(ge=0)]
    seq: int
    worker: str
    pos: dict[str, Offset] = {}
    hw: dict[str, Offset]
    tail: dict[str, Offset] = {}
    now_ts: Timestamp | None = None


class Item(Struct, kw_only=True, omit_defaults=True):
    """A product of the catalogue; a null record deletes it.

    Attributes:
        category_ids: Root category first.
        type: Type of the item in a list whose request names none.
        sales_28d: Units sold in 28 days.
        image_vec: float16[d] little-endian, in the vector space named by `image_model`.
        text_vec: float16[d] little-endian, in the vector space named by `text_model`.
        attributes: Numbers `rating` and `promotion` become features when present.
    """

    schema_version: SchemaVersion = field(default_factory=_written_version)
    item_id: ItemId
    title: str
    brand_id: str | None = None
    shop_id: str | None = None
    category_ids: list[str] = []
    type: ItemType = PRODUCT
    price_minor: Money
    currency: Currency
    sales_28d: Annotated[int, Meta(ge=0)] = 0
    image_vec: bytes | None = None
    text_vec: bytes | None = None
    image_model: str | None = None
    text_model: str | None = None
    available: bool = True
    updated_ts: Timestamp
    attributes: dict[str, object] | None = None


class Behaviour(Struct, kw_only=True, omit_defaults=True):
    """One action of a client; `query_id` is the list it happened on, and `category` the query category of that list."""

    event_id: EventId
    item_id: ItemId
    action: str
    event_ts: Timestamp
    query_id: QueryId | None = None
    category: str | None = None
    price_minor: Money | None = None


class ClickedPage(Struct, kw_only=True):
    """A list of which a client clicked an item or put one into the cart, with the first items that it showed.

    Attributes:
        impression_ts: Time of the impression, of parts that of the first one known when the click joined.
    """

    query_id: QueryId
    impression_ts: Timestamp
    item_id: Annotated[list[ItemId], Meta(min_length=1, max_length=MAX_PAGE_ITEMS)]


class Profile(Struct, kw_only=True):
    """Newest 50 behaviours of a client by (event_ts, event_id), newest first.

    Attributes:
        pages: The 5 clicked pages that were shown last, by (impression_ts, query_id), newest first.
    """

    schema_version: SchemaVersion = field(default_factory=_written_version)
    client_id: ClientId
    behaviours: list[Behaviour]
    pages: list[ClickedPage] = []
    updated_ts: Timestamp


class ModelVersionAnnouncement(Struct, kw_only=True):
    """A hint that SQL holds a new version of a lineage."""

    schema_version: SchemaVersion = field(default_factory=_written_version)
    lineage: str
    version: int
    artifact: Sha256
    published_ts: Timestamp


def encode(record: Struct) -> bytes:
    """Return the JSON bytes of any record of this module."""
    return msgspec.json.encode(record)


__all__ = [
    "ALL_LINES",
    "MAX_EVENT_BYTES",
    "MAX_ITEMS",
    "MAX_PAGES",
    "MAX_PAGE_ITEMS",
    "PRODUCT",
    "SCHEMA_VERSION",
    "Assignment",
    "Behaviour",
    "Click",
    "ClickedPage",
    "Conversion",
    "Event",
    "Features",
    "History",
    "Impression",
    "Item",
    "ModelVersionAnnouncement",
    "OrderLine",
    "Profile",
    "Query",
    "ShownItems",
    "Slice",
    "Tick",
    "encode",
]
