"""The sums of each client, added up by the database.

Source: docs/experiments.md.
"""

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, and_, distinct, func, select

from abtest.tables import exposures, session_facts, session_orders

_CHUNK_ROWS = 50_000


def client_vectors(connection: Connection, experiment: str, matured_ts: int | None) -> dict[str, NDArray[np.float64]]:
    """Return the sums of each client by arm, in the order of `metrics.COLUMNS`, clients sorted by id.

    A client counts in the arm of its first exposure. A client that was seen in two arms is left out. An order with
    items of several lists of a client counts once.

    Args:
        connection: An open transaction.
        experiment: Key of the experiment.
        matured_ts: Only sessions up to here count; None counts all.

    Shapes: (clients, columns).
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    found = connection.execution_options(yield_per=_CHUNK_ROWS).execute(_vectors(experiment, matured_ts))
    for arm, sessions, items, clicks, orders, gross, refunds in found:
        numbers = [float(number or 0) for number in (sessions, items, clicks, orders, gross, refunds)]
        rows.setdefault(arm, []).append((*numbers, numbers[4] - numbers[5]))
    return {arm: np.array(vectors, dtype=np.float64) for arm, vectors in sorted(rows.items())}


def _vectors(experiment: str, matured_ts: int | None) -> Select[str, int, int, int, int, int, int]:
    counted = [session_facts.c.experiment == experiment]
    if matured_ts is not None:
        counted.append(session_facts.c.impression_ts <= matured_ts)
    orders = (
        select(
            session_facts.c.client_id,
            func.count(distinct(session_orders.c.transaction_id)).label("orders"),
        )
        .join(session_orders, session_orders.c.query_id == session_facts.c.query_id)
        .where(*counted)
        .group_by(session_facts.c.client_id)
        .subquery()
    )
    sums = (
        select(
            session_facts.c.client_id,
            func.count().label("sessions"),
            func.sum(session_facts.c.n_items).label("items"),
            func.sum(session_facts.c.clicks).label("clicks"),
            func.sum(session_facts.c.gross_minor).label("gross_minor"),
            func.sum(session_facts.c.refund_minor).label("refund_minor"),
        )
        .where(*counted)
        .group_by(session_facts.c.client_id)
        .subquery()
    )
    return (
        select(
            exposures.c.arm,
            sums.c.sessions,
            sums.c["items"],
            sums.c.clicks,
            func.coalesce(orders.c.orders, 0),
            sums.c.gross_minor,
            sums.c.refund_minor,
        )
        .join(
            sums,
            and_(
                sums.c.client_id == exposures.c.client_id,
                exposures.c.experiment == experiment,
                exposures.c.multi_arm.is_(False),
            ),
        )
        .outerjoin(orders, orders.c.client_id == exposures.c.client_id)
        .order_by(exposures.c.arm, exposures.c.client_id)
    )
