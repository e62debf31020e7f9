"""The sums of each client, added up by the database.

Source: docs/experiments.md.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Select, Subquery, and_, case, distinct, func, select

from abtest.metrics import COLUMNS
from abtest.tables import exposures, session_facts, session_orders

_CHUNK_ROWS = 50_000
_ORDERS = COLUMNS.index("orders")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Sessions of an experiment that count.

    Attributes:
        experiment: Key of the experiment.
        epochs: Numbers of its epochs; a session of any other does not count.
        start_ts: First impression time.
        until_ts: Last impression time; None has no end.
        currency: Currency whose amounts are added up; None adds all.
    """

    experiment: str
    epochs: tuple[int, ...]
    start_ts: int
    until_ts: int | None
    currency: str | None = None

    def sessions(self) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions on `session_facts`."""
        facts = session_facts.c
        return self._conditions(facts.experiment, facts.epoch, facts.impression_ts)

    def exposures(self) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions on `exposures`."""
        return self._conditions(exposures.c.experiment, exposures.c.epoch, exposures.c.first_ts)

    def _conditions(
        self, experiment: ColumnElement[str], epoch: ColumnElement[int], at_ts: ColumnElement[int]
    ) -> tuple[ColumnElement[bool], ...]:
        found = (experiment == self.experiment, epoch.in_(self.epochs), at_ts >= self.start_ts)
        return found if self.until_ts is None else (*found, at_ts <= self.until_ts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clients:
    """Clients of one arm.

    Attributes:
        vectors: Sums of each analysed client, sorted by client id (N, columns of `metrics.COLUMNS`).
        multi_arm: Clients that were seen in another arm too, which are left out.
        fallbacks: Sessions of the analysed clients that serving answered in the incoming order.
    """

    vectors: NDArray[np.float64]
    multi_arm: int
    fallbacks: int

    @property
    def buyers(self) -> int:
        """Return the number of analysed clients with an order."""
        return int((self.vectors[:, _ORDERS] > 0).sum())


NO_CLIENTS = Clients(vectors=np.zeros((0, len(COLUMNS))), multi_arm=0, fallbacks=0)


def client_vectors(connection: Connection, counted: Counted) -> Mapping[str, Clients]:
    """Return the clients by arm.

    A client counts in the arm of its first exposure. A client that was seen in two arms is left out. An order with
    items of several lists of a client counts once.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    multi_arm: Counter[str] = Counter()
    fallbacks: Counter[str] = Counter()
    found = connection.execution_options(yield_per=_CHUNK_ROWS).execute(_vectors(counted))
    for arm, num_arms, num_fallbacks, *sums in found:
        rows.setdefault(arm, [])
        if num_arms > 1:
            multi_arm[arm] += 1
            continue
        fallbacks[arm] += num_fallbacks
        numbers = [float(number or 0) for number in sums]
        rows[arm].append((*numbers, numbers[4] - numbers[5]))
    return {
        arm: Clients(
            vectors=np.array(vectors, dtype=np.float64).reshape(-1, len(COLUMNS)),
            multi_arm=multi_arm[arm],
            fallbacks=fallbacks[arm],
        )
        for arm, vectors in sorted(rows.items())
    }


def history_vectors(
    connection: Connection, *, from_ts: int, until_ts: int, currency: str | None = None
) -> NDArray[np.float64]:
    """Return the sums of each client over sessions shown in a time, in any experiment or none.

    Args:
        connection: A transaction that sees one state of the database throughout.
        from_ts: First impression time.
        until_ts: Last impression time.
        currency: Currency whose amounts are added up; None adds all.

    Shapes: (N, columns of `metrics.COLUMNS`).
    """
    inside = (session_facts.c.impression_ts >= from_ts, session_facts.c.impression_ts <= until_ts)
    sums, orders = _sums(inside, currency), _orders(inside)
    found = connection.execution_options(yield_per=_CHUNK_ROWS).execute(
        select(
            sums.c.sessions,
            sums.c["items"],
            sums.c.clicks,
            func.coalesce(orders.c.orders, 0),
            sums.c.gross_minor,
            sums.c.refund_minor,
        )
        .outerjoin(orders, orders.c.client_id == sums.c.client_id)
        .order_by(sums.c.client_id)
    )
    rows = [[float(number or 0) for number in row] for row in found]
    return np.array([(*row, row[4] - row[5]) for row in rows], dtype=np.float64).reshape(-1, len(COLUMNS))


def _vectors(counted: Counted) -> Select[str, int, int, int, int, int, int, int, int]:
    sums, orders = _sums(counted.sessions(), counted.currency), _orders(counted.sessions())
    return (
        select(
            exposures.c.arm,
            sums.c.num_arms,
            sums.c.fallbacks,
            sums.c.sessions,
            sums.c["items"],
            sums.c.clicks,
            func.coalesce(orders.c.orders, 0),
            sums.c.gross_minor,
            sums.c.refund_minor,
        )
        .join(sums, and_(sums.c.client_id == exposures.c.client_id, *counted.exposures()))
        .outerjoin(orders, orders.c.client_id == exposures.c.client_id)
        .order_by(exposures.c.arm, exposures.c.client_id)
    )


def _orders(conditions: tuple[ColumnElement[bool], ...]) -> Subquery:
    """Return the number of transactions of each client with one."""
    facts = session_facts.c
    return (
        select(facts.client_id, func.count(distinct(session_orders.c.transaction_id)).label("orders"))
        .join(session_orders, session_orders.c.query_id == facts.query_id)
        .where(*conditions)
        .group_by(facts.client_id)
        .subquery()
    )


def _sums(conditions: tuple[ColumnElement[bool], ...], currency: str | None) -> Subquery:
    """Return the other sums of each client."""
    facts = session_facts.c
    gross, refund = (
        column if currency is None else case((facts.currency == currency, column), else_=0)
        for column in (facts.gross_minor, facts.refund_minor)
    )
    return (
        select(
            facts.client_id,
            case((func.min(facts.arm) == func.max(facts.arm), 1), else_=2).label("num_arms"),
            func.count(facts.fallback).label("fallbacks"),
            func.count().label("sessions"),
            func.sum(facts.n_items).label("items"),
            func.sum(facts.clicks).label("clicks"),
            func.sum(gross).label("gross_minor"),
            func.sum(refund).label("refund_minor"),
        )
        .where(*conditions)
        .group_by(facts.client_id)
        .subquery()
    )
