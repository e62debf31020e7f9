"""The session and progress records of the `sessions` topic, and their msgpack codec.

A session is one query with its whole list and its labels; numeric columns are raw little-endian bytes so that 30
items become arrays in microseconds. Absent columns are empty bytes. A progress record carries a partition's
watermark, maturity and holds.

Source: STREAM.md 4.
"""

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from stream.errors import SchemaError

SCHEMA_VERSION = 1
ACTION_CODES = {"view": 0, "click": 1, "add_to_cart": 2, "purchase": 3}
REASONS = ("close", "click", "conversion", "refund")


class Evidence(Struct, frozen=True, array_like=True):
    """One merged event behind a label; `link` is `query_id`, `last_click` or `inferred`."""

    event_id: str
    action: str
    item: int
    event_ts: int
    append_ts: int
    topic: str
    partition: int
    offset: int
    link: str


class Line(Struct, frozen=True, array_like=True):
    """One merged order line, or its cancellation or refund."""

    transaction_id: str
    line_id: str
    refund_id: str
    action: str
    item: int
    quantity: int
    amount_minor: int
    currency: str
    event_ts: int


class AssignedArm(Struct, frozen=True, array_like=True):
    """One layer's decision as it stood when the list was served."""

    layer: str
    experiment: str
    epoch: int
    arm: str
    bucket: int


class Session(Struct, kw_only=True, tag_field="kind", tag="session"):
    """One query with its whole list, its labels and the evidence for them, as of `revision`.

    Shapes: columns of the list are length n in shown order; `item_f16` is n x f; history columns are length h.
    Units: `_minor` integers in minor units, `_ms` milliseconds, -1 = no such event.
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

    query_hash: str
    query_category: str | None
    currency: str
    assignment: list[AssignedArm]
    lineage: str | None
    version: str | None
    fallback: str | None
    triggered: bool | None

    n: int
    item_id: list[str]
    rank_in: bytes
    score: bytes
    price_minor: bytes
    propensity: bytes

    feature_schema: bytes
    item_f16: bytes
    context_f16: bytes
    hist_item: list[str]
    hist_category: list[str]
    hist_action: bytes
    hist_age_s: bytes

    clicks: bytes
    carts: bytes
    orders: bytes
    units: bytes
    click_delay_ms: bytes
    order_delay_ms: bytes
    gross_minor: bytes
    refund_minor: bytes
    changed: bytes

    events: list[Evidence]
    lines: list[Line]


class Progress(Struct, kw_only=True, tag_field="kind", tag="progress"):
    """Where one partition of the join stands; sent to its own partition of `sessions`.

    Attributes:
        watermark_ts: No event at or before this time is expected any more.
        matured_ts: Sessions with `impression_ts` up to here are outside of the attribution window.
        now_ts: The clock that the join used.
        counters: Fate or reason to count since the topics began, of this partition.
        hold: Names of the active holds; empty means resume.
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


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Session | Progress] = msgspec.msgpack.Decoder(Session | Progress)


def encode(record: Session | Progress) -> bytes:
    """Return the msgpack bytes of a session or progress record."""
    return _encoder.encode(record)


def decode(raw: bytes) -> Session | Progress:
    """Return the record in `raw`.

    Raises:
        SchemaError: If it is not a session or progress record of a known major version.
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


def u16(raw: bytes) -> NDArray[np.uint16]:
    """Return a column of uint16 (`rank_in`, `clicks`, `carts`, `orders`, `changed`)."""
    return np.frombuffer(raw, dtype="<u2")


def u32(raw: bytes) -> NDArray[np.uint32]:
    """Return a column of uint32 (`units`, `hist_age_s`)."""
    return np.frombuffer(raw, dtype="<u4")


def i64(raw: bytes) -> NDArray[np.int64]:
    """Return a column of int64 (`price_minor`, `gross_minor`, `refund_minor`, delays)."""
    return np.frombuffer(raw, dtype="<i8")


def f16(raw: bytes) -> NDArray[np.float16]:
    """Return a column of float16 (`item_f16`, `context_f16`)."""
    return np.frombuffer(raw, dtype="<f2")


def f32(raw: bytes) -> NDArray[np.float32]:
    """Return a column of float32 (`score`, `propensity`)."""
    return np.frombuffer(raw, dtype="<f4")
