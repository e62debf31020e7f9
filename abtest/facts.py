"""Facts of sessions and their counts, as pure functions.

Facts merge: the counts come from the union of the evidence of all copies. Repeated, reordered and corrected sessions
therefore end in the same row.

Source: docs/experiments.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from stream.schemas.events import Slice
from stream.schemas.money import NO_CURRENCY
from stream.schemas.session import AssignedArm, Evidence, Line, Session, refunds

MAX_INTEGER = 2**53
_MAX_EPOCH = 2**31 - 1

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[list[Evidence], list[Line]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One query with its ranking policy and the evidence of its outcome."""

    query_id: str
    revision: int
    client_id: str
    session_id: str | None
    assignment: tuple[AssignedArm, ...]
    lineage: str | None
    version: str | None
    source: str | None
    slice: Slice | None
    fallback: str | None
    latency_us: int
    triggered: bool | None
    impression_ts: int
    watermark_ts: int
    currency: str
    n_items: int
    events: tuple[Evidence, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Counts of one query.

    Attributes:
        clicks: Distinct items clicked.
        carts: Distinct items put into the cart.
        transactions: Orders with an item of this list.
        units: Units bought.
        gross_minor: Money of purchases, before cancellations and refunds.
        refund_minor: Money of cancellations and refunds.
        foreign_lines: Order lines in another currency than the list's. No sum of money contains them.
    """

    clicks: int
    carts: int
    transactions: tuple[str, ...]
    units: int
    gross_minor: int
    refund_minor: int
    foreign_lines: int


def fact_of(session: Session) -> Fact:
    """Return the fact of one session record, with NUL characters replaced because PostgreSQL refuses them."""
    return Fact(
        query_id=text(session.query_id),
        revision=min(session.revision, _MAX_EPOCH),
        client_id=text(session.client_id),
        session_id=_optional(session.session_id),
        assignment=tuple(_arm(entry) for entry in session.assignment if 0 <= entry.epoch <= _MAX_EPOCH),
        lineage=_optional(session.lineage),
        version=_optional(session.version),
        source=text(session.source) or None,
        slice=session.slice,
        fallback=_optional(session.fallback),
        latency_us=min(session.latency_us, MAX_INTEGER),
        triggered=session.triggered,
        impression_ts=session.impression_ts,
        watermark_ts=session.watermark_ts,
        currency=session.currency,
        n_items=session.n,
        events=_events(session.events),
        lines=_lines(session.lines),
    )


def merge(first: Fact, second: Fact) -> Fact:
    """Return the union of two facts of one query.

    Guarantees: commutative, associative and idempotent.

    Raises:
        ValueError: If the facts are of different queries.
    """
    if first.query_id != second.query_id:
        raise ValueError(f"facts of '{first.query_id}' and '{second.query_id}' cannot be merged")
    # Copies of one revision differ at most in evidence and watermark; any total order picks the same one.
    newest = max(first, second, key=lambda fact: (fact.revision, fact.watermark_ts))
    return replace(
        newest,
        watermark_ts=max(first.watermark_ts, second.watermark_ts),
        events=_events((*first.events, *second.events)),
        lines=_lines((*first.lines, *second.lines)),
    )


def outcome(fact: Fact) -> Outcome:
    """Return the counts of a fact's evidence."""
    own = [line for line in fact.lines if not is_foreign(line.currency, fact.currency)]
    bought = [line for line in own if line.action == "purchase"]
    return Outcome(
        clicks=len({event.item for event in fact.events if event.action == "click"}),
        carts=len({event.item for event in fact.events if event.action == "add_to_cart"}),
        transactions=tuple(sorted({line.transaction_id for line in fact.lines if line.action == "purchase"})),
        units=min(sum(line.quantity for line in bought), MAX_INTEGER),
        gross_minor=min(sum(line.amount_minor for line in bought), MAX_INTEGER),
        refund_minor=min(sum(amount_minor for _, amount_minor in refunds(own)), MAX_INTEGER),
        foreign_lines=len(fact.lines) - len(own),
    )


def is_foreign(currency: str, wanted: str) -> bool:
    """Return whether the currency of an order line is another one than the wanted; an unknown one is not."""
    return currency not in {wanted, NO_CURRENCY}


def encode_evidence(fact: Fact) -> bytes:
    """Return the evidence as msgpack, or empty bytes if there is none."""
    return _encoder.encode((fact.events, fact.lines)) if fact.events or fact.lines else b""


def decode_evidence(raw: bytes) -> tuple[list[Evidence], list[Line]]:
    """Return the events and order lines of `encode_evidence`."""
    return _decoder.decode(raw) if raw else ([], [])


def with_evidence(fact: Fact, raw: bytes) -> Fact:
    """Return `fact` with the evidence of `encode_evidence` added to its own."""
    if not raw:
        return fact
    events, lines = decode_evidence(raw)
    return replace(fact, events=_events((*fact.events, *events)), lines=_lines((*fact.lines, *lines)))


def _events(events: Iterable[Evidence]) -> tuple[Evidence, ...]:
    kept: dict[str, Evidence] = {}
    for event in sorted(events, key=lambda e: (e.event_ts, e.append_ts, e.partition, e.offset, e.action, e.item)):
        kept.setdefault(event.event_id, event)
    return tuple(kept[event_id] for event_id in sorted(kept))


def _lines(lines: Iterable[Line]) -> tuple[Line, ...]:
    kept: dict[tuple[str, str, str, str], Line] = {}
    for line in sorted(lines, key=lambda entry: (entry.event_ts, entry.amount_minor, entry.quantity, entry.item)):
        key = (text(line.transaction_id), line.line_id, line.refund_id, line.action)
        kept.setdefault(key, msgspec.structs.replace(line, transaction_id=key[0]))
    return tuple(kept[key] for key in sorted(kept))


def _arm(entry: AssignedArm) -> AssignedArm:
    return AssignedArm(
        layer=text(entry.layer),
        experiment=text(entry.experiment),
        epoch=entry.epoch,
        arm=text(entry.arm),
        bucket=entry.bucket,
    )


def _optional(value: str | None) -> str | None:
    return None if value is None else text(value)


def text(value: str) -> str:
    """Return the text with NUL characters replaced: PostgreSQL stores none, and a producer can send one."""
    return value.replace("\0", "\ufffd")
