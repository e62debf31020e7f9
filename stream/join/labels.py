"""Labels of one query: a grow-only set of touches and order lines, and the session columns derived from it.

Merging is commutative, associative and idempotent: whatever the order, duplicates or replays, the same events end in
the same labels. Of two records that claim one identity, the one with the least (event_ts, event_id) stays.

Source: STREAM.md 5.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from hashlib import blake2b

from msgspec import Struct

from stream.schemas import topics
from stream.schemas.session import Evidence, Line, pack


class Touch(Struct, frozen=True, array_like=True):
    """A click or cart addition on the item at index `item`."""

    event_id: str
    action: str
    item: int
    event_ts: int
    append_ts: int
    offset: int
    link: str


class Deal(Struct, frozen=True, array_like=True):
    """A purchased order line, or the cancellation or refund of one (then with a `refund_id`)."""

    event_id: str
    transaction_id: str
    line_id: str
    refund_id: str
    action: str
    item: int
    quantity: int
    amount_minor: int
    currency: str
    event_ts: int
    append_ts: int
    offset: int
    link: str

    @property
    def identity(self) -> str:
        """Return what makes the line the same line."""
        return f"{self.transaction_id}\0{self.line_id}\0{self.refund_id}"


class Merge(Enum):
    """What became of an entry: new, the same record once more, a copy, or a copy that won by being least."""

    ADDED = "added"
    REPEATED = "repeated"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"


class Labels(Struct, array_like=True):
    """Everything that shoppers did on one list; keyed by event id and by line identity."""

    touches: dict[str, Touch]
    deals: dict[str, Deal]

    def __len__(self) -> int:
        return len(self.touches) + len(self.deals)

    def merge_touch(self, touch: Touch) -> Merge:
        """Add a touch by its event id."""
        known = self.touches.get(touch.event_id)
        verdict = _verdict(known, touch)
        if verdict in {Merge.ADDED, Merge.REPLACED}:
            self.touches[touch.event_id] = touch
        return verdict

    def merge_deal(self, deal: Deal) -> Merge:
        """Add an order line by its identity."""
        known = self.deals.get(deal.identity)
        verdict = _verdict(known, deal)
        if verdict in {Merge.ADDED, Merge.REPLACED}:
            self.deals[deal.identity] = deal
        return verdict

    def union(self, other: "Labels") -> "Labels":
        """Return the union of both sets."""
        merged = Labels(dict(self.touches), dict(self.deals))
        for touch in other.touches.values():
            merged.merge_touch(touch)
        for deal in other.deals.values():
            merged.merge_deal(deal)
        return merged


def empty() -> Labels:
    """Return labels without entries."""
    return Labels({}, {})


def _verdict(known: Touch | Deal | None, new: Touch | Deal) -> Merge:
    if known is None:
        return Merge.ADDED
    if known.offset == new.offset:
        return Merge.REPEATED
    if (new.event_ts, new.event_id) < (known.event_ts, known.event_id):
        return Merge.REPLACED
    return Merge.DUPLICATE


def label_key(labels: Labels) -> bytes:
    """Return 8 bytes that name this set of labels, whatever the order of arrival."""
    ids = sorted([*labels.touches, *labels.deals])
    return blake2b("\n".join(ids).encode(), digest_size=8).digest()


def evidence(labels: Labels, partition: int) -> list[Evidence]:
    """Return the merged events in (event_ts, event_id, item) order."""
    rows = [
        Evidence(t.event_id, t.action, t.item, t.event_ts, t.append_ts, topics.CLICKS, partition, t.offset, t.link)
        for t in labels.touches.values()
    ]
    rows += [
        Evidence(d.event_id, d.action, d.item, d.event_ts, d.append_ts, topics.CONVERSIONS, partition, d.offset, d.link)
        for d in labels.deals.values()
    ]
    return sorted(rows, key=lambda row: (row.event_ts, row.event_id, row.item))


def lines(labels: Labels) -> list[Line]:
    """Return the merged order lines in (event_ts, transaction_id, line_id, refund_id) order."""
    if not labels.deals:
        return []
    rows = [
        Line(
            d.transaction_id,
            d.line_id,
            d.refund_id,
            d.action,
            d.item,
            d.quantity,
            d.amount_minor,
            d.currency,
            d.event_ts,
        )
        for d in labels.deals.values()
    ]
    return sorted(rows, key=lambda row: (row.event_ts, row.transaction_id, row.line_id, row.refund_id))


@lru_cache(maxsize=256)
def no_columns(n: int) -> Mapping[str, bytes]:
    """Return the label columns of a list of `n` items without labels."""
    counts = dict.fromkeys(("clicks", "carts", "orders", "units", "gross_minor", "refund_minor"), [0] * n)
    delays = dict.fromkeys(("click_delay_ms", "order_delay_ms"), [-1] * n)
    return {name: pack(name, values) for name, values in (counts | delays).items()}


def columns(labels: Labels, *, n: int, impression_ts: int, currency: str) -> dict[str, bytes]:
    """Return the label columns of a list by name.

    Args:
        labels: The merged labels.
        n: Length of the list.
        impression_ts: Start of the delays; a click with an earlier time has delay 0.
        currency: Money in another currency stays in `lines` only.
    """
    clicks, carts, click_delay = [0] * n, [0] * n, [-1] * n
    for touch in labels.touches.values():
        if touch.action == "click":
            clicks[touch.item] += 1
            _lower(click_delay, touch.item, touch.event_ts - impression_ts)
        else:
            carts[touch.item] += 1
    touched = {
        **no_columns(n),
        "clicks": pack("clicks", clicks),
        "carts": pack("carts", carts),
        "click_delay_ms": pack("click_delay_ms", click_delay),
    }
    if not labels.deals:
        return touched
    units, gross, refund, order_delay = [0] * n, [0] * n, [0] * n, [-1] * n
    orders: list[set[str]] = [set() for _ in range(n)]
    for deal in labels.deals.values():
        money = deal.amount_minor if deal.currency == currency else 0
        if deal.action == "purchase":
            orders[deal.item].add(deal.transaction_id)
            units[deal.item] += deal.quantity
            gross[deal.item] += money
            _lower(order_delay, deal.item, deal.event_ts - impression_ts)
        else:
            refund[deal.item] += money
    return touched | {
        "orders": pack("orders", [len(ids) for ids in orders]),
        "units": pack("units", units),
        "order_delay_ms": pack("order_delay_ms", order_delay),
        "gross_minor": pack("gross_minor", gross),
        "refund_minor": pack("refund_minor", refund),
    }


def changed(items: Iterable[int]) -> bytes:
    """Return the column of item indexes that a revision touches.

    >>> list(changed([2, 1, 2]))
    [1, 0, 2, 0]
    """
    return pack("changed", sorted(set(items)))


def _lower(delays: list[int], item: int, delay_ms: int) -> None:
    delay_ms = max(delay_ms, 0)
    if delays[item] < 0 or delay_ms < delays[item]:
        delays[item] = delay_ms
