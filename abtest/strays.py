"""Strays: sessions and clients of an experiment that its plan does not foresee, as shares of all.

One stray record never decides about an experiment. A share above `BLOCK_SHARE` does.

Source: docs/experiments.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection, case, func, select

from abtest.client_vectors import Counted
from abtest.experiment import Experiment
from abtest.facts import decode_evidence, is_foreign
from abtest.session_counts import PAID, PRICED, SessionCounts
from abtest.tables import client_orders, exposures, session_facts
from stream.schemas.money import NO_CURRENCY

BLOCK_SHARE = 0.01
_MAX_FOREIGN_SESSIONS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Strays:
    """Numbers of strays.

    Attributes:
        currency: Currency whose amounts are added up: the plan's, or else the most frequent one; None without money.
        foreign_currencies: Other currencies, of lists and of order lines.
        foreign_sessions: Sessions and orders without a session, in another currency or with an order line in one. Their
            foreign amounts count as zero.
        foreign_money: Those of them with money.
        money_sessions: Sessions with money, and orders without a session.
        unknown_arm: Exposed clients in arms that the plan does not have.
        clients: Exposed clients of all arms.
        no_epoch: Sessions before the start, or of an epoch that the experiment does not have.
        sessions: Sessions up to the newest that counts, those of no epoch included.
        after_end: Sessions after the end of a stopped experiment.
    """

    currency: str | None = None
    foreign_currencies: tuple[str, ...] = ()
    foreign_sessions: int = 0
    foreign_money: int = 0
    money_sessions: int = 0
    unknown_arm: int = 0
    clients: int = 0
    no_epoch: int = 0
    sessions: int = 0
    after_end: int = 0

    @property
    def foreign_share(self) -> float:
        """Return the share of foreign sessions among those with money."""
        return _share(self.foreign_money, self.money_sessions)

    @property
    def unknown_arm_share(self) -> float:
        """Return the share of exposed clients in unknown arms."""
        return _share(self.unknown_arm, self.clients)

    @property
    def no_epoch_share(self) -> float:
        """Return the share of sessions of no epoch."""
        return _share(self.no_epoch, self.sessions)


def read_strays(
    connection: Connection,
    experiment: Experiment,
    counted: Counted,
    sessions: SessionCounts,
    exposed: Mapping[str, int],
) -> Strays:
    """Return the strays of an experiment.

    Args:
        connection: A transaction that sees one state of the database throughout.
        experiment: The experiment.
        counted: Its sessions that count.
        sessions: Their counts.
        exposed: Arm to its exposed clients, unknown arms included.
    """
    known = {arm.name for arm in experiment.arms}
    return replace(
        _money(connection, experiment.plan.currency, counted, sessions),
        unknown_arm=sum(number for arm, number in exposed.items() if arm not in known),
        clients=sum(exposed.values()),
        no_epoch=sessions.up_to - sessions.counted,
        sessions=sessions.up_to,
        after_end=sessions.after_end,
    )


def _money(connection: Connection, planned: str | None, counted: Counted, sessions: SessionCounts) -> Strays:
    by_currency = _sessions_by_currency(connection, counted, sessions)
    for name, found in _unlinked_by_currency(connection, counted).items():
        by_currency[name] = by_currency.get(name, _Money()).plus(found)
    named = [name for name in by_currency if name != NO_CURRENCY] or list(by_currency)
    most = max(named, key=lambda name: (by_currency[name].units, name), default=None)
    currency = planned or most
    has_foreign = any(money.foreign for money in by_currency.values())
    lines = _foreign_currencies(connection, counted) if has_foreign else set()
    return Strays(
        currency=currency,
        foreign_currencies=tuple(sorted((by_currency.keys() | lines) - {currency})),
        foreign_sessions=sum(money.foreign if name == currency else money.units for name, money in by_currency.items()),
        foreign_money=sum(money.foreign if name == currency else money.paid for name, money in by_currency.items()),
        money_sessions=sum(money.paid for money in by_currency.values()),
    )


class _Money(NamedTuple):
    """Sessions and orders in one currency: all, those with money, those with a line in another one."""

    units: int = 0
    paid: int = 0
    foreign: int = 0

    def plus(self, other: "_Money") -> "_Money":
        return _Money(self.units + other.units, self.paid + other.paid, self.foreign + other.foreign)


def _sessions_by_currency(connection: Connection, counted: Counted, sessions: SessionCounts) -> dict[str, _Money]:
    if sessions.currencies is None:
        return {}
    low, high = sessions.currencies
    if low == high:
        return {low: _Money(sessions.priced, sessions.paid, sessions.foreign)}
    facts = session_facts.c
    rows = connection.execute(
        select(
            facts.currency, func.count(), func.count(case((PAID, 1))), func.count(case((facts.foreign_lines > 0, 1)))
        )
        .where(*counted.sessions(), PRICED)
        .group_by(facts.currency)
    )
    return {currency: _Money(*numbers) for currency, *numbers in rows}


def _unlinked_by_currency(connection: Connection, counted: Counted) -> dict[str, _Money]:
    """Return the orders without a line in a session."""
    orders = client_orders.c
    rows = connection.execute(
        select(orders.currency, func.count(), func.count(), func.count(case((orders.foreign_lines > 0, 1))))
        .join(exposures, exposures.c.client_id == orders.client_id)
        .where(*counted.orders(), orders.linked_lines == 0)
        .group_by(orders.currency)
    )
    return {currency: _Money(*numbers) for currency, *numbers in rows}


def _foreign_currencies(connection: Connection, counted: Counted) -> set[str]:
    """Return the currencies of order lines that no sum contains, as far as some sessions show them."""
    evidence = connection.execute(
        select(session_facts.c.currency, session_facts.c.evidence)
        .where(*counted.sessions(), session_facts.c.foreign_lines > 0)
        .order_by(session_facts.c.query_id)
        .limit(_MAX_FOREIGN_SESSIONS)
    )
    return {
        line.currency
        for currency, raw in evidence
        for line in decode_evidence(raw)[1]
        if is_foreign(line.currency, currency)
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
