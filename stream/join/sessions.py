"""Session records, assembled from the payloads of the list, of the labels and of one revision.

A msgpack map is its size followed by its pairs, so maps with disjoint keys concatenate to one record. The list payload
is encoded once, when the impression arrives, and is what the state keeps. The label payload describes the labels of the
revision. The keys of the payloads together are those of `stream.schemas.session.Session`.

Source: docs/stream.md, Records.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

import msgspec
from msgspec import NODEFAULT, Struct, defstruct
from msgspec.structs import fields, replace

from stream.join import labels as labelling
from stream.join.labels import Label, Labels, no_columns
from stream.schemas import session
from stream.schemas.events import Assignment, Impression
from stream.schemas.session import AssignedArm, ListPart, pack, packer

# A map of up to 15 pairs begins with one byte, a larger one with a type byte and two bytes of size.
_SMALL_BYTES = 1
_LARGE_TYPE = b"\xde"
_LARGE_BYTES = 3


_HEADER_FIELDS = ("revision", "reason", "close_ts", "watermark_ts")
_LABEL_FIELDS = ("label_key", "currency", *no_columns(1), "changed", "events", "lines")


def _payload(name: str, select: Callable[[str], bool], tag: str | None = None) -> type[Struct]:
    """Return a struct with the selected fields of a session, in their order."""
    chosen = [
        (field.name, field.type) if field.default is NODEFAULT else (field.name, field.type, field.default)
        for field in fields(session.Session)
        if select(field.name)
    ]
    return defstruct(name, chosen, kw_only=True, tag_field="kind" if tag else None, tag=tag, module=__name__)


ListPayload = _payload("ListPayload", lambda name: name not in {*_HEADER_FIELDS, *_LABEL_FIELDS}, tag="session")
"""The fields of a session that its impression decides."""
LabelPayload = _payload("LabelPayload", lambda name: name in _LABEL_FIELDS)
"""The fields that its labels decide."""
Header = _payload("Header", lambda name: name in _HEADER_FIELDS)
"""The fields of one revision."""


class ListView(Struct):
    """The fields of a list payload that a click or an order line needs."""

    item_id: list[str]
    price_minor: bytes
    query_category: str | None
    list_currency: str
    position: bytes = b""

    def place(self, object_id: str, position: int | None = None) -> int:
        """Return the place of a product, its position from 0; of equal products that nearest to a position.

        Without a position the place is the first one.
        """
        if self.position:
            equal = [at for at, item_id in zip(self._places(), self.item_id, strict=True) if item_id == object_id]
            return equal[0] if position is None else min(equal, key=lambda at: abs(at + 1 - position))
        index = self.item_id.index(object_id)
        if position is None or position == index + 1 or self.item_id.count(object_id) == 1:
            return index
        equal = [at for at, item_id in enumerate(self.item_id) if item_id == object_id]
        return min(equal, key=lambda at: abs(at + 1 - position))

    def index(self, place: int) -> int | None:
        """Return the index of the item at a place, or None if the list has none there."""
        if not self.position:
            return place
        places = self._places()
        return places.index(place) if place in places else None

    def product(self, place: int) -> str | None:
        """Return the product at a place, or None if the list has none there."""
        index = self.index(place)
        return None if index is None else self.item_id[index]

    def price(self, place: int) -> int:
        """Return the price of the item at a place, 0 if the list has none there."""
        index = self.index(place)
        return (
            0 if index is None else int.from_bytes(self.price_minor[8 * index : 8 * index + 8], "little", signed=True)
        )

    def _places(self) -> list[int]:
        return [position - 1 for position in session.unpack("position", self.position).tolist()]


class ListKey(Struct):
    """The fields of a list payload that the indexes need after a restart."""

    impression_ts: int
    client_id: str
    n: int
    position: bytes = b""


class _Money(Struct):
    list_currency: str
    position: bytes = b""


class _Parts(Struct):
    src: tuple[int, int]
    parts: list[ListPart] = []


_encoder = msgspec.msgpack.Encoder()
_views = msgspec.msgpack.Decoder(ListView)
_keys = msgspec.msgpack.Decoder(ListKey)
_monies = msgspec.msgpack.Decoder(_Money)
_parts = msgspec.msgpack.Decoder(_Parts)
_NUM_OTHER_FIELDS = len(LabelPayload.__struct_fields__) + len(Header.__struct_fields__)


def list_payload(impression: Impression, partition: int, offset: int) -> bytes:
    """Return the msgpack bytes of the list payload of a decoded impression."""
    query, items, features = impression.query, impression.items, impression.features
    history = features.history if features is not None else None
    n = len(items.object_id)
    return _encoder.encode(
        ListPayload(
            query_id=impression.query_id,
            client_id=impression.client_id,
            session_id=impression.session_id,
            user_id=impression.user_id,
            impression_ts=impression.event_ts,
            src=(partition, offset),
            source=impression.source,
            parts=[ListPart(impression.event_ts, impression.event_id, offset)] if items.position else [],
            query_hash=query.hash,
            query_category=query.category,
            list_currency=impression.currency,
            assignment=[_arm(assigned) for assigned in impression.assignment] if impression.assignment else [],
            lineage=impression.lineage,
            version=impression.version,
            fallback=impression.fallback,
            triggered=impression.triggered,
            latency_us=impression.latency_us,
            slice=impression.slice,
            n=n,
            item_id=items.object_id,
            item_type=items.type or [],
            position=pack("position", items.position) if items.position else b"",
            rank_in=pack("rank_in", items.rank_in),
            score=pack("score", items.score) if items.score is not None else b"",
            price_minor=packer("price_minor", n)(*items.price_minor),
            propensity=pack("propensity", items.propensity) if items.propensity is not None else b"",
            feature_schema=bytes.fromhex(features.schema) if features is not None else b"",
            item_f16=features.item_f16 if features is not None else b"",
            context_f16=features.context_f16 if features is not None else b"",
            hist_item=history.object_id if history is not None else [],
            hist_category=history.category if history is not None else [],
            hist_action=pack("hist_action", [session.ACTION_CODES.get(a, 0) for a in history.action])
            if history is not None
            else b"",
            hist_age_s=pack("hist_age_s", history.age_s) if history is not None else b"",
            hist_pages=history.pages if history is not None else [],
        )
    )


def list_view(payload: bytes) -> ListView:
    """Return the items of a list payload."""
    return _views.decode(payload)


def list_key(payload: bytes) -> ListKey:
    """Return client, time and length of a list payload."""
    return _keys.decode(payload)


def offsets_of(payload: bytes) -> set[int]:
    """Return the offsets of the impressions of a list payload."""
    found = _parts.decode(payload)
    return {found.src[1], *(part.offset for part in found.parts)}


def parts_of(payload: bytes) -> list[ListPart]:
    """Return the impressions of a list payload, none if one impression shows the whole list."""
    return _parts.decode(payload).parts


def shown_labels(labels: Labels, payload: bytes) -> Labels:
    """Return the labels whose place the list has.

    A label that a crash has left behind may name the place of a part that did not come in time again.
    """
    view = list_view(payload)
    if not view.position:
        return labels
    return Labels(
        {key: click for key, click in labels.clicks.items() if view.index(click.item) is not None},
        {key: line for key, line in labels.order_lines.items() if view.index(line.item) is not None},
    )


def build(
    payload: bytes,
    labels: Labels | None,
    header: Struct,
    *,
    n: int,
    impression_ts: int,
    partition: int,
    changed: Iterable[Label],
) -> bytes:
    """Return the msgpack bytes of a session record.

    Args:
        payload: The list payload.
        labels: The labels of this revision, if any, each on a place of the list.
        header: A `Header`.
        n: Length of the list.
        impression_ts: Time of the impression.
        partition: Partition of the inputs.
        changed: The labels that were merged since the last revision.
    """
    money = _monies.decode(payload)
    currency = money.list_currency
    if labels is None or not len(labels):
        labelled = _unlabelled(n, currency)
    else:
        placed = _indexed(labels, list_view(payload)) if money.position else labels
        placed = labelling.placed(placed, list_view(payload).item_id) if labels.order_lines else placed
        items = labelling.items_of(placed, changed)
        labelled = _label_payload(
            placed, n, impression_ts=impression_ts, list_currency=currency, partition=partition, changed=items
        )
    # Another release, with more or fewer fields, may have written the list payload.
    num_fields = int.from_bytes(payload[1:_LARGE_BYTES], "big") + _NUM_OTHER_FIELDS
    start = _LARGE_TYPE + num_fields.to_bytes(2, "big")
    return b"".join((start, payload[_LARGE_BYTES:], labelled[_SMALL_BYTES:], _encoder.encode(header)[_SMALL_BYTES:]))


def _indexed(labels: Labels, view: ListView) -> Labels:
    """Return the labels of a list with positions, each on the index of its item.

    The parts may have come after the label, so the place of a click is decided again where a product is shown twice.
    """
    clicks = {}
    for event_id, click in labels.clicks.items():
        product = view.product(click.item)
        assert product is not None, f"no item at place {click.item}"
        index = view.index(view.place(product, click.position or None))
        assert index is not None
        clicks[event_id] = replace(click, item=index)
    lines = {}
    for identity, line in labels.order_lines.items():
        index = view.index(line.item)
        assert index is not None, f"no item at place {line.item}"
        lines[identity] = replace(line, item=index)
    return Labels(clicks, lines)


@lru_cache(maxsize=256)
def _unlabelled(n: int, currency: str) -> bytes:
    return _label_payload(labelling.empty(), n, impression_ts=0, list_currency=currency, partition=0, changed=())


def _label_payload(
    labels: Labels, n: int, *, impression_ts: int, list_currency: str, partition: int, changed: Iterable[int]
) -> bytes:
    currency = labelling.currency(labels.order_lines.values(), list_currency)
    return _encoder.encode(
        LabelPayload(
            label_key=labelling.label_key(labels),
            currency=currency,
            **labelling.columns(labels, n=n, impression_ts=impression_ts, currency=currency),
            changed=labelling.changed(changed),
            events=labelling.evidence(labels, partition),
            lines=labelling.lines(labels),
        )
    )


def _arm(assigned: Assignment) -> AssignedArm:
    return AssignedArm(assigned.layer, assigned.experiment, assigned.epoch, assigned.arm, assigned.bucket)
