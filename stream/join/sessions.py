"""From a raw impression and its labels to a session record.

Source: STREAM.md 4, session record.
"""

import struct
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from stream import session
from stream.events import Features
from stream.join import labels as labelling
from stream.join.labels import Labels
from stream.session import AssignedArm, Session

_U16_MAX = 2**16 - 1


class ShownList(Struct):
    """The item columns that a click or an order line needs."""

    object_id: list[str]
    price_minor: list[int]


class ListQuery(Struct):
    """The query fields that a profile needs."""

    category: str | None = None


class ListHead(Struct):
    """The part of an impression that a click or an order line needs."""

    items: ShownList
    query: ListQuery


class Identity(Struct):
    """The part of an impression that its state needs after a restart."""

    event_id: str
    event_ts: int
    client_id: str


class _Items(Struct):
    object_id: list[str]
    rank_in: list[int]
    price_minor: list[int]
    score: list[float] | None = None
    propensity: list[float] | None = None


class _Query(Struct):
    hash: str
    category: str | None = None


class _Assignment(Struct):
    layer: str
    experiment: str
    arm: str
    epoch: int
    bucket: int


class _Shown(Struct):
    """An impression as `stream.events` has it, without the checks that it passed on arrival."""

    event_ts: int
    client_id: str
    query_id: str
    query: _Query
    currency: str
    items: _Items
    session_id: str | None = None
    user_id: str | None = None
    features: Features | None = None
    assignment: list[_Assignment] = []
    lineage: str | None = None
    version: str | None = None
    fallback: str | None = None
    triggered: bool | None = None


_impressions = msgspec.json.Decoder(_Shown)
_heads = msgspec.json.Decoder(ListHead)
_identities = msgspec.json.Decoder(Identity)


def head(raw: bytes) -> ListHead:
    """Return the list of an impression that was validated before."""
    return _heads.decode(raw)


def identity(raw: bytes) -> Identity:
    """Return who, when and which of an impression that was validated before."""
    return _identities.decode(raw)


def build(
    raw: bytes,
    labels: Labels,
    *,
    partition: int,
    offset: int,
    revision: int,
    reason: str,
    changed_items: Iterable[int],
    click_window_ms: int,
    watermark_ts: int,
) -> bytes:
    """Return the msgpack bytes of a session record.

    Args:
        raw: The impression, validated before.
        labels: Its labels as of this revision.
        partition: Partition of the inputs.
        offset: Offset of the impression.
        revision: 0 at the close, higher for corrections.
        reason: `close`, `click`, `conversion` or `refund`.
        changed_items: Indexes of the items whose labels changed since the last revision.
        click_window_ms: Length of the click window.
        watermark_ts: Watermark of the partition now.
    """
    shown = _impressions.decode(raw)
    items, features = shown.items, shown.features
    n = len(items.object_id)
    if labels.touches or labels.deals:
        columns = labelling.columns(labels, n=n, impression_ts=shown.event_ts, currency=shown.currency)
        key = labelling.label_key(labels)
        events, lines = labelling.evidence(labels, partition), labelling.lines(labels)
    else:
        columns, key, events, lines = labelling.no_columns(n), labelling.NO_LABELS_KEY, [], []
    rank_in = items.rank_in if max(items.rank_in) <= _U16_MAX else [min(rank, _U16_MAX) for rank in items.rank_in]
    history = features.history if features is not None else None
    return session.encode(
        Session(
            query_id=shown.query_id,
            client_id=shown.client_id,
            session_id=shown.session_id,
            user_id=shown.user_id,
            revision=revision,
            reason=reason,
            label_key=key,
            impression_ts=shown.event_ts,
            close_ts=shown.event_ts + click_window_ms,
            watermark_ts=watermark_ts,
            src=(partition, offset),
            query_hash=shown.query.hash,
            query_category=shown.query.category,
            currency=shown.currency,
            assignment=[_arm(assigned) for assigned in shown.assignment],
            lineage=shown.lineage,
            version=shown.version,
            fallback=shown.fallback,
            triggered=shown.triggered,
            n=n,
            item_id=items.object_id,
            rank_in=struct.pack(f"<{n}H", *rank_in),
            score=struct.pack(f"<{n}f", *items.score) if items.score is not None else b"",
            price_minor=struct.pack(f"<{n}q", *items.price_minor),
            propensity=struct.pack(f"<{n}f", *items.propensity) if items.propensity is not None else b"",
            feature_schema=bytes.fromhex(features.schema) if features is not None else b"",
            item_f16=features.item_f16 if features is not None else b"",
            context_f16=features.context_f16 if features is not None else b"",
            hist_item=history.object_id if history is not None else [],
            hist_category=history.category if history is not None else [],
            hist_action=bytes(session.ACTION_CODES.get(a, 0) for a in history.action) if history is not None else b"",
            hist_age_s=struct.pack(f"<{len(history.age_s)}I", *history.age_s) if history is not None else b"",
            clicks=columns.clicks,
            carts=columns.carts,
            orders=columns.orders,
            units=columns.units,
            click_delay_ms=columns.click_delay_ms,
            order_delay_ms=columns.order_delay_ms,
            gross_minor=columns.gross_minor,
            refund_minor=columns.refund_minor,
            changed=labelling.changed(changed_items),
            events=events,
            lines=lines,
        )
    )


def _arm(assigned: _Assignment) -> AssignedArm:
    return AssignedArm(assigned.layer, assigned.experiment, assigned.epoch, assigned.arm, assigned.bucket)
