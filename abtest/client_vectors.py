"""The sums of each client, added up by the database.

Source: docs/experiments.md.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Double, Select, Subquery, and_, case, cast, distinct, func, select

from abtest.metrics import COLUMNS
from abtest.tables import client_orders, exposures, session_facts, session_orders

_CHUNK_ROWS = 50_000
# Columns of one time that the database adds up: all but the difference of two of them.
_NUM_READ = len(COLUMNS) - 1
_ORDERS, _CLICKED_ORDERS = COLUMNS.index("orders"), COLUMNS.index("clicked_orders")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Sessions of an experiment that count.

    Attributes:
        experiment: Key of the experiment.
        epochs: Numbers of its epochs; a session of any other does not count.
        start_ts: First impression time.
        until_ts: Last impression time; None has no end.
        attribution_s: Orders count up to this long after `until_ts`.
        currency: Currency whose amounts are added up; None adds all.
        before_s: Length of the time before each client's first exposure whose sums are read besides; 0 reads none.
        clients: Clients that count; None counts all.
    """

    experiment: str
    epochs: tuple[int, ...]
    start_ts: int
    until_ts: int | None
    attribution_s: int = 0
    currency: str | None = None
    before_s: int = 0
    clients: tuple[str, ...] | None = None

    def until(self, until_ts: int | None) -> "Counted":
        """Return the sessions up to another impression time."""
        return replace(self, until_ts=until_ts)

    def sessions(self) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions on `session_facts`."""
        facts = session_facts.c
        return self._conditions(facts.experiment, facts.epoch, facts.impression_ts, facts.client_id)

    def exposures(self) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions on `exposures`."""
        found = exposures.c
        return self._conditions(found.experiment, found.epoch, found.first_ts, found.client_id)

    def orders(self) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions on `client_orders`, joined with `exposures`."""
        bought_ts = client_orders.c.bought_ts
        found = (*self.exposures(), bought_ts >= exposures.c.first_ts)
        return found if self.until_ts is None else (*found, bought_ts <= self.until_ts + 1_000 * self.attribution_s)

    def _conditions(
        self,
        experiment: ColumnElement[str],
        epoch: ColumnElement[int],
        at_ts: ColumnElement[int],
        client_id: ColumnElement[str],
    ) -> tuple[ColumnElement[bool], ...]:
        found = [experiment == self.experiment, epoch.in_(self.epochs), at_ts >= self.start_ts]
        if self.until_ts is not None:
            found.append(at_ts <= self.until_ts)
        if self.clients is not None:
            found.append(client_id.in_(self.clients))
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clients:
    """Clients of one arm.

    Attributes:
        vectors: Sums of each analysed client, sorted by client id (N, columns of `metrics.COLUMNS`), followed by the
            same sums before its first exposure if they are read.
        epochs: Epoch of its first exposure (N,).
        multi_arm: Clients that were seen in another arm too, which are left out.
    """

    vectors: NDArray[np.float64]
    epochs: NDArray[np.int64]
    multi_arm: int

    @property
    def buyers(self) -> int:
        """Return the number of analysed clients with an order."""
        return int((self.vectors[:, _ORDERS] > 0).sum())

    @property
    def clicked_buyers(self) -> int:
        """Return the number of analysed clients with an order after a click."""
        return int((self.vectors[:, _CLICKED_ORDERS] > 0).sum())


NO_CLIENTS = Clients(vectors=np.zeros((0, len(COLUMNS))), epochs=np.zeros(0, np.int64), multi_arm=0)


def client_vectors(connection: Connection, counted: Counted) -> Mapping[str, Clients]:
    """Return the clients by arm.

    A client counts in the arm of its first exposure. A client that was seen in two arms is left out. All orders of a
    client since its first exposure count, each once.
    """
    rows: dict[str, list[list[float]]] = {}
    epochs: dict[str, list[int]] = {}
    multi_arm: Counter[str] = Counter()
    for client in client_rows(connection, counted):
        rows.setdefault(client.arm, [])
        if client.vector is None:
            multi_arm[client.arm] += 1
            continue
        rows[client.arm].append(client.vector)
        epochs.setdefault(client.arm, []).append(client.epoch)
    return {
        arm: Clients(
            vectors=np.array(vectors, dtype=np.float64).reshape(-1, (2 if counted.before_s else 1) * len(COLUMNS)),
            epochs=np.array(epochs.get(arm, ()), dtype=np.int64),
            multi_arm=multi_arm[arm],
        )
        for arm, vectors in sorted(rows.items())
    }


class ClientRow(NamedTuple):
    """One client; `vector` is None if it was seen in several arms."""

    client_id: str
    arm: str
    epoch: int
    vector: list[float] | None


def client_rows(connection: Connection, counted: Counted) -> Iterator[ClientRow]:
    """Yield the clients of `client_vectors`, by arm and id."""
    # An option of the statement: one of the connection would stay and forbid writes in the same transaction.
    found = connection.execute(_vectors(counted).execution_options(yield_per=_CHUNK_ROWS))
    for client_id, arm, epoch, num_arms, *sums in found:
        vector = [number for part in _halves(sums) for number in _row(part)] if num_arms == 1 else None
        yield ClientRow(client_id, arm, int(epoch), vector)


def _halves(sums: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (sums[start : start + _NUM_READ] for start in range(0, len(sums), _NUM_READ))


def history_vectors(
    connection: Connection, *, from_ts: int, until_ts: int, currency: str | None = None
) -> NDArray[np.float64]:
    """Return the sums of each client over sessions shown in a time, in any experiment or none.

    All orders of a client from its first session of that time on count.

    Args:
        connection: A transaction that sees one state of the database throughout.
        from_ts: First impression time.
        until_ts: Last impression time, and last time of an order.
        currency: Currency whose amounts are added up; None adds all.

    Shapes: (N, columns of `metrics.COLUMNS`).
    """
    inside = (session_facts.c.impression_ts >= from_ts, session_facts.c.impression_ts <= until_ts)
    sums, clicked = _sums(inside, currency), _clicked_orders(inside)
    bought = _bought(
        currency,
        (client_orders.c.bought_ts >= sums.c.first_ts, client_orders.c.bought_ts <= until_ts),
        client=sums.c.client_id,
    )
    found = connection.execution_options(yield_per=_CHUNK_ROWS).execute(
        select(*_columns(sums, bought, clicked))
        .outerjoin(bought, bought.c.client_id == sums.c.client_id)
        .outerjoin(clicked, clicked.c.client_id == sums.c.client_id)
        .order_by(sums.c.client_id)
    )
    return np.array([_row(row) for row in found], dtype=np.float64).reshape(-1, len(COLUMNS))


def session_sums(currency: str | None = None) -> dict[str, ColumnElement[Any]]:
    """Return the sums over `session_facts` that need no order, by their names in `metrics.COLUMNS`.

    Args:
        currency: Currency whose amounts are added up; None adds all.
    """
    facts = session_facts.c
    return {
        "sessions": func.count(),
        "items": func.sum(facts.n_items),
        "clicks": func.sum(facts.clicks),
        "clicked_gross_minor": func.sum(_in_currency(facts.currency, facts.gross_minor, currency)),
        "fallbacks": func.count(facts.fallback),
        "timed_sessions": func.count(facts.latency_us),
        "latency_us": func.coalesce(func.sum(cast(facts.latency_us, Double)), 0.0),
    }


def _vectors(counted: Counted) -> Select[Any]:
    sums, clicked = _sums(counted.sessions(), counted.currency), _clicked_orders(counted.sessions())
    bought = _bought(counted.currency, counted.orders(), client=exposures.c.client_id)
    before = _before(counted) if counted.before_s else ()
    columns = (*_columns(sums, bought, clicked), *(_columns(*before) if before else ()))
    found = select(exposures.c.client_id, exposures.c.arm, exposures.c.epoch, sums.c.num_arms, *columns).join(
        sums, and_(sums.c.client_id == exposures.c.client_id, *counted.exposures())
    )
    for part in (bought, clicked, *before):
        found = found.outerjoin(part, part.c.client_id == exposures.c.client_id)
    return found.order_by(exposures.c.arm, exposures.c.client_id)


def _before(counted: Counted) -> tuple[Subquery, Subquery, Subquery]:
    """Return the sums of sessions, orders, and orders after a click of each client before its first exposure.

    Sessions of all experiments and of none count whose attribution windows had closed by then, so that nothing after
    the exposure can have moved the sums.
    """
    facts, first_ts, from_ts = session_facts.c, exposures.c.first_ts, exposures.c.first_ts - 1_000 * counted.before_s
    shown = (
        *counted.exposures(),
        facts.client_id == exposures.c.client_id,
        facts.impression_ts >= from_ts,
        facts.impression_ts < first_ts - 1_000 * counted.attribution_s,
    )
    bought_ts = client_orders.c.bought_ts
    bought = (*counted.exposures(), bought_ts >= from_ts, bought_ts < first_ts)
    return (
        _sums(shown, counted.currency),
        _bought(counted.currency, bought, client=exposures.c.client_id),
        _clicked_orders(shown),
    )


def _columns(sums: Subquery, bought: Subquery, clicked: Subquery) -> tuple[ColumnElement[Any], ...]:
    """Return the columns of `metrics.COLUMNS`, but the difference that `_row` adds."""
    return (
        func.coalesce(sums.c.sessions, 0),
        func.coalesce(sums.c["items"], 0),
        func.coalesce(sums.c.clicks, 0),
        func.coalesce(bought.c.orders, 0),
        func.coalesce(bought.c.gross_minor, 0),
        func.coalesce(bought.c.refund_minor, 0),
        func.coalesce(clicked.c.orders, 0),
        func.coalesce(sums.c.clicked_gross_minor, 0),
        func.coalesce(sums.c.fallbacks, 0),
        func.coalesce(sums.c.timed_sessions, 0),
        func.coalesce(sums.c.latency_us, 0),
    )


def _row(numbers: Iterable[Any]) -> list[float]:
    sessions, items, clicks, orders, gross, refund, *others = map(float, numbers)
    return [sessions, items, clicks, orders, gross, refund, gross - refund, *others]


def _bought(currency: str | None, conditions: Iterable[ColumnElement[bool]], *, client: ColumnElement[str]) -> Subquery:
    """Return orders and money of each client with an order, however the order came about."""
    orders = client_orders.c
    gross, refund = (
        _in_currency(orders.currency, column, currency) for column in (orders.gross_minor, orders.refund_minor)
    )
    return (
        select(
            orders.client_id,
            func.count().label("orders"),
            func.sum(gross).label("gross_minor"),
            func.sum(refund).label("refund_minor"),
        )
        .where(orders.client_id == client, *conditions)
        .group_by(orders.client_id)
        .subquery()
    )


def _clicked_orders(conditions: Iterable[ColumnElement[bool]]) -> Subquery:
    """Return the number of transactions after a click, of each client with one."""
    facts = session_facts.c
    return (
        select(facts.client_id, func.count(distinct(session_orders.c.transaction_id)).label("orders"))
        .join(session_orders, session_orders.c.query_id == facts.query_id)
        .where(*conditions, facts.orders > 0)
        .group_by(facts.client_id)
        .subquery()
    )


def _sums(conditions: Iterable[ColumnElement[bool]], currency: str | None) -> Subquery:
    """Return the sums of the sessions of each client."""
    facts = session_facts.c
    return (
        select(
            facts.client_id,
            case((func.min(facts.arm) == func.max(facts.arm), 1), else_=2).label("num_arms"),
            func.min(facts.impression_ts).label("first_ts"),
            *(total.label(name) for name, total in session_sums(currency).items()),
        )
        .where(*conditions)
        .group_by(facts.client_id)
        .subquery()
    )


def _in_currency(named: ColumnElement[str], amount: ColumnElement[int], currency: str | None) -> ColumnElement[float]:
    # SQLite refuses sums of integers above 2^63; the vectors are floats anyway.
    wide = cast(amount, Double)
    return wide if currency is None else case((named == currency, wide), else_=0.0)
