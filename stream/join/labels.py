"""Labels of one query: a grow-only set of click labels and order-line labels, and the session columns derived from it.

Merging is commutative, associative and idempotent: the same events end in the same labels in any order, with copies
and replays. Of two records with one identity, the one with the least (event_ts, event_id) stays.

Source: docs/stream.md.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from stream.schemas import money, topics
from stream.schemas.session import Evidence, Line, pack, packer, refunds


class ClickLabel(Struct, frozen=True, array_like=True):
    """A click or cart addition on the item at index `item`; `position` is the one that the event names, or 0."""

    event_id: str
    action: str
    item: int
    event_ts: int
    append_ts: int
    offset: int
    link: str
    source: str = ""
    first_offset: int = -1
    position: int = 0


class OrderLineLabel(Struct, frozen=True, array_like=True):
    """A purchased order line, or its cancellation or refund (then with a `refund_id`)."""

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
    source: str = ""
    first_offset: int = -1

    @property
    def identity(self) -> str:
        """Return the key under which copies of the line merge."""
        return line_identity(self.transaction_id, self.line_id, self.refund_id)

    @property
    def purchase_identity(self) -> str:
        """Return the identity of the purchase of the line."""
        return f"{self.transaction_id}\0{self.line_id}\0"


Label = ClickLabel | OrderLineLabel


def joined_offset(label: Label) -> int:
    """Return the offset of the record that joined; a copy with an earlier time may have replaced its content."""
    return label.offset if label.first_offset < 0 else label.first_offset


def line_identity(transaction_id: str, line_id: str, refund_id: str = "") -> str:
    """Return the identity of an order line, or of its reversal."""
    return f"{transaction_id}\0{line_id}\0{refund_id}"


class MergeResult(Enum):
    """The result of a merge: a new label, the same record again, a copy, or a copy that wins by being least."""

    ADDED = "added"
    REPEATED = "repeated"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"


class Labels(Struct, array_like=True):
    """The labels of one list: clicks by event id, order lines by identity."""

    clicks: dict[str, ClickLabel]
    order_lines: dict[str, OrderLineLabel]

    def __len__(self) -> int:
        return len(self.clicks) + len(self.order_lines)

    def merge(self, label: Label) -> MergeResult:
        """Add a label by its identity."""
        if isinstance(label, ClickLabel):
            click = self.clicks.get(label.event_id)
            result = _compare(click, label)
            if click is None:
                self.clicks[label.event_id] = label
            elif result is MergeResult.REPLACED:
                self.clicks[label.event_id] = replace(label, first_offset=joined_offset(click))
        else:
            identity = label.identity
            line = self.order_lines.get(identity)
            result = _compare(line, label)
            if line is None:
                self.order_lines[identity] = label
            elif result is MergeResult.REPLACED:
                self.order_lines[identity] = replace(label, first_offset=joined_offset(line))
        return result

    def union(self, other: "Labels") -> "Labels":
        """Return the union of both sets."""
        merged = Labels(dict(self.clicks), dict(self.order_lines))
        for click in other.clicks.values():
            merged.merge(click)
        for line in other.order_lines.values():
            merged.merge(line)
        return merged


def empty() -> Labels:
    """Return an empty set of labels."""
    return Labels({}, {})


def _compare(known: Label | None, new: Label) -> MergeResult:
    if known is None:
        return MergeResult.ADDED
    if joined_offset(known) == new.offset:
        return MergeResult.REPEATED
    # After a crash, the copy that has replaced the content may be read again: its record may be lost.
    if known.offset == new.offset or (new.event_ts, new.event_id) < (known.event_ts, known.event_id):
        return MergeResult.REPLACED
    return MergeResult.DUPLICATE


def label_key(labels: Labels) -> bytes:
    """Return 8 bytes that identify this set of labels in any order of arrival."""
    ids = sorted([*labels.clicks, *labels.order_lines])
    return blake2b("\n".join(ids).encode(), digest_size=8).digest()


def evidence(labels: Labels, partition: int) -> list[Evidence]:
    """Return the merged events in (event_ts, event_id, item) order."""
    rows = [_evidence(click, topics.CLICKS, partition) for click in labels.clicks.values()]
    rows += [_evidence(line, topics.CONVERSIONS, partition) for line in labels.order_lines.values()]
    return sorted(rows, key=lambda row: (row.event_ts, row.event_id, row.item))


def _evidence(label: Label, topic: str, partition: int) -> Evidence:
    return Evidence(
        label.event_id,
        label.action,
        label.item,
        label.event_ts,
        label.append_ts,
        topic,
        partition,
        label.offset,
        label.link,
        label.source,
    )


def lines(labels: Labels) -> list[Line]:
    """Return the merged order lines in (event_ts, transaction_id, line_id, refund_id) order."""
    if not labels.order_lines:
        return []
    rows = [
        Line(
            o.transaction_id,
            o.line_id,
            o.refund_id,
            o.action,
            o.item,
            o.quantity,
            o.amount_minor,
            o.currency,
            o.event_ts,
        )
        for o in labels.order_lines.values()
    ]
    return sorted(rows, key=lambda row: (row.event_ts, row.transaction_id, row.line_id, row.refund_id))


@lru_cache(maxsize=256)
def no_columns(n: int) -> Mapping[str, bytes]:
    """Return the label columns of a list of `n` items without labels."""
    counts = dict.fromkeys(("clicks", "carts", "orders", "units", "gross_minor", "refund_minor"), [0] * n)
    delays = dict.fromkeys(("click_delay_ms", "order_delay_ms"), [-1] * n)
    return {name: pack(name, values) for name, values in (counts | delays).items()}


def placed(labels: Labels, item_id: list[str]) -> Labels:
    """Return the labels with each order line at its place in the list.

    An order line names a product, not a place. Where a list shows the product more than once, the place is that of the
    last click or cart addition on it up to the purchase, else the first one. Reversals follow their purchase.

    Args:
        labels: The merged labels, whose order lines have a place of their product.
        item_id: The products of the list.
    """
    if len(set(item_id)) == len(item_id):
        return labels
    lines = {}
    for identity, line in labels.order_lines.items():
        purchase = labels.order_lines.get(line.purchase_identity, line)
        product = item_id[line.item]
        clicks = [
            (click.event_ts, click.event_id, click.item)
            for click in labels.clicks.values()
            if item_id[click.item] == product and click.event_ts <= purchase.event_ts
        ]
        lines[identity] = replace(line, item=max(clicks)[2] if clicks else item_id.index(product))
    return Labels(labels.clicks, lines)


def items_of(labels: Labels, some: Iterable[Label]) -> set[int]:
    """Return the items of some of the labels."""
    return {
        labels.clicks[label.event_id].item if isinstance(label, ClickLabel) else labels.order_lines[label.identity].item
        for label in some
    }


def currency(lines: Iterable[OrderLineLabel], list_currency: str) -> str:
    """Return the currency of a session's money: that of the list or, if it is unknown, of the first order line.

    The first order line is the one with the least (event_ts, identity) among those in a known currency, so the order of
    arrival does not matter.
    """
    if money.is_known(list_currency):
        return list_currency
    known = [line for line in lines if money.is_known(line.currency)]
    return min(known, key=lambda line: (line.event_ts, line.identity)).currency if known else list_currency


def columns(labels: Labels, *, n: int, impression_ts: int, currency: str) -> dict[str, bytes]:
    """Return the label columns of a list by name.

    Args:
        labels: The merged labels.
        n: Length of the list.
        impression_ts: Start of the delays; a click with an earlier time has delay 0.
        currency: Currency of the money; a line of unknown currency is taken to be in it, and money in another one
            stays in `lines` only.
    """
    clicks, carts, click_delay = [0] * n, [0] * n, [-1] * n
    for label in labels.clicks.values():
        if label.action == "click":
            clicks[label.item] += 1
            _lower(click_delay, label.item, label.event_ts - impression_ts)
        else:
            carts[label.item] += 1
    clicked = {
        **no_columns(n),
        "clicks": pack("clicks", clicks),
        "carts": pack("carts", carts),
        "click_delay_ms": packer("click_delay_ms", n)(*click_delay),
    }
    if not labels.order_lines:
        return clicked
    units, gross, refund, order_delay = [0] * n, [0] * n, [0] * n, [-1] * n
    orders: list[set[str]] = [set() for _ in range(n)]
    own = [line for line in labels.order_lines.values() if line.currency in {currency, money.NO_CURRENCY}]
    for line in labels.order_lines.values():
        if line.action == "purchase":
            orders[line.item].add(line.transaction_id)
            units[line.item] += line.quantity
            _lower(order_delay, line.item, line.event_ts - impression_ts)
    for line in own:
        if line.action == "purchase":
            gross[line.item] += line.amount_minor
    for item, amount_minor in refunds(own):
        refund[item] += amount_minor
    return clicked | {
        "orders": pack("orders", [len(ids) for ids in orders]),
        "units": pack("units", units),
        "order_delay_ms": pack("order_delay_ms", order_delay),
        "gross_minor": pack("gross_minor", gross),
        "refund_minor": pack("refund_minor", refund),
    }


def changed(items: Iterable[int]) -> bytes:
    """Return the column of item indexes that a revision changes.

    >>> list(changed([2, 1, 2]))
    [1, 0, 2, 0]
    """
    return pack("changed", sorted(set(items)))


def _lower(delays: list[int], item: int, delay_ms: int) -> None:
    delay_ms = max(delay_ms, 0)
    if delays[item] < 0 or delay_ms < delays[item]:
        delays[item] = delay_ms
