"""Erasure of what the database holds of one client.

Source: docs/experiments.md, Erasure.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Table, delete, select

from abtest import moment_store
from abtest.fact_writer import lock_sink
from abtest.tables import client_orders, exposures, session_facts, session_orders, unlinked_lines
from stream import db


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """Rows that were removed.

    Attributes:
        sessions: Session facts, with their orders.
        orders: Orders of the client.
        lines: Order lines without a session.
        exposures: Exposures, one for each experiment.
    """

    sessions: int
    orders: int
    lines: int
    exposures: int


def erase(engine: Engine, client_id: str) -> Erased:
    """Remove all rows of a client in one transaction; a second call removes none.

    Args:
        engine: A database with the newest schema.
        client_id: The client as the facts name it: the hash, where ids are hashed at the edge.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    with db.transaction(engine) as connection:
        lock_sink(connection)
        own = select(session_facts.c.query_id).where(session_facts.c.client_id == client_id)
        connection.execute(delete(session_orders).where(session_orders.c.query_id.in_(own)))
        erased = Erased(
            sessions=_remove(connection, session_facts, client_id),
            orders=_remove(connection, client_orders, client_id),
            lines=_remove(connection, unlinked_lines, client_id),
            exposures=_remove(connection, exposures, client_id),
        )
        moment_store.forget(connection, client_id)
        return erased


def _remove(connection: Connection, table: Table, client_id: str) -> int:
    return connection.execute(delete(table).where(table.c.client_id == client_id)).rowcount
