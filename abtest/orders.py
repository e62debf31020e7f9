"""Orders of clients from order lines, with and without a click, as pure functions.

An order counts whole, however its lines were attributed: what a client buys is an outcome of the experiment, what it
clicked before is not the reason to count it.

Source: docs/experiments.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from abtest.facts import MAX_INTEGER, is_foreign, text
from stream.schemas.events import ALL_LINES
from stream.schemas.money import NO_CURRENCY
from stream.schemas.session import Line, UnlinkedLine


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class OrderLine:
    """Bought line of an order, or a reversal of one.

    Attributes:
        event_ts: Time of the purchase or of the reversal.
        amount_minor: Total of the line, never negative: the action gives the sign.
        transaction_id: The order.
        line_id: The line; `*` in a reversal of every line that has no reversal with its `refund_id`.
        refund_id: Tells the reversals of one line apart; empty for a purchase.
        is_linked: Whether a session holds the line.
    """

    event_ts: int
    amount_minor: int
    client_id: str
    transaction_id: str
    line_id: str
    refund_id: str
    action: str
    currency: str
    is_linked: bool

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Return client, transaction, line and refund id, under which copies are the same line."""
        return self.client_id, self.transaction_id, self.line_id, self.refund_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Order of a client.

    Attributes:
        bought_ts: Time of the first purchase.
        currency: That of the first line in a known currency.
        gross_minor: Money of purchases, before cancellations and refunds.
        refund_minor: Money of cancellations and refunds, at most what was bought.
        linked_lines: Bought lines that a session holds.
        unlinked_lines: Other bought lines.
        foreign_lines: Lines in another currency. No sum of money contains them.
    """

    client_id: str
    transaction_id: str
    bought_ts: int
    currency: str
    gross_minor: int
    refund_minor: int
    linked_lines: int
    unlinked_lines: int
    foreign_lines: int


def of_unlinked(record: UnlinkedLine) -> OrderLine:
    """Return the line of a record, with NUL characters replaced because PostgreSQL refuses them."""
    return OrderLine(
        event_ts=record.event_ts,
        amount_minor=min(record.amount_minor, MAX_INTEGER),
        client_id=text(record.client_id),
        transaction_id=text(record.transaction_id),
        line_id=text(record.line_id),
        refund_id=text(record.refund_id),
        action=record.action,
        currency=record.currency,
        is_linked=False,
    )


def of_session(client_id: str, currency: str, lines: Iterable[Line]) -> list[OrderLine]:
    """Return the lines that a session holds; those without a currency have that of the session."""
    return [
        OrderLine(
            event_ts=line.event_ts,
            amount_minor=min(line.amount_minor, MAX_INTEGER),
            client_id=client_id,
            transaction_id=text(line.transaction_id),
            line_id=text(line.line_id),
            refund_id=text(line.refund_id),
            action=line.action,
            currency=currency if line.currency == NO_CURRENCY else line.currency,
            is_linked=True,
        )
        for line in lines
    ]


def distinct(lines: Iterable[OrderLine]) -> list[OrderLine]:
    """Return each line once: of copies one that a session holds, else the earliest.

    Guarantees: the order of the lines does not matter.
    """
    kept: dict[tuple[str, str, str, str], OrderLine] = {}
    for line in sorted(lines, key=lambda each: (not each.is_linked, each)):
        kept.setdefault(line.identity, line)
    return [kept[identity] for identity in sorted(kept)]


def order(lines: Iterable[OrderLine], *, refund_ms: int) -> Order | None:
    """Return the order of the lines of one transaction, or None if nothing was bought.

    Args:
        lines: Lines of one client and transaction, copies included.
        refund_ms: Reversals count up to this long after the purchase of their line.
    """
    known = distinct(lines)
    bought = {line.line_id: line for line in known if line.action == "purchase"}
    if not bought:
        return None
    first = min(bought.values())
    named = sorted(line for line in bought.values() if line.currency != NO_CURRENCY)
    currency = named[0].currency if named else NO_CURRENCY
    returned = _returned(known, bought, refund_ms)
    own = {line_id for line_id, line in bought.items() if not is_foreign(line.currency, currency)}
    return Order(
        client_id=first.client_id,
        transaction_id=first.transaction_id,
        bought_ts=first.event_ts,
        currency=currency,
        gross_minor=min(sum(bought[line_id].amount_minor for line_id in own), MAX_INTEGER),
        refund_minor=min(
            sum(min(returned.get(line_id, 0), bought[line_id].amount_minor) for line_id in own), MAX_INTEGER
        ),
        linked_lines=sum(line.is_linked for line in bought.values()),
        unlinked_lines=sum(not line.is_linked for line in bought.values()),
        foreign_lines=len(bought) - len(own),
    )


def _returned(lines: Iterable[OrderLine], bought: Mapping[str, OrderLine], refund_ms: int) -> dict[str, int]:
    """Return the money that the reversals of each bought line name."""
    returned: dict[str, int] = {}
    reversals = [line for line in lines if line.action != "purchase"]
    by_refund = {(line.refund_id, line.line_id) for line in reversals}
    for line in reversals:
        whole = line.line_id == ALL_LINES
        for line_id, purchase in bought.items():
            if (whole and (line.refund_id, line_id) in by_refund) or (not whole and line_id != line.line_id):
                continue
            if line.event_ts > purchase.event_ts + refund_ms or is_foreign(line.currency, purchase.currency):
                continue
            # A reversal of every line states a total that may hold shipping; it returns what each line was bought for.
            returned[line_id] = returned.get(line_id, 0) + (purchase.amount_minor if whole else line.amount_minor)
    return returned
