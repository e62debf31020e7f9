"""Writer of clients' orders, in the transaction of the facts.

Lines without a session are stored as they come. The order of each touched transaction is computed again from all of
its lines, so that the order of arrival, copies and corrections do not matter.

Source: docs/experiments.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table, select, tuple_

from abtest import facts, orders
from abtest.facts import Fact
from abtest.orders import OrderLine
from abtest.tables import client_orders, session_facts, session_orders, unlinked_lines
from stream import db

_CHUNK = 200
_LINE_COLUMNS = tuple(column.name for column in unlinked_lines.c)

Transaction: TypeAlias = tuple[str, str]
"""Client and transaction id."""


def write_orders(
    connection: Connection, found: Iterable[Fact], unlinked: Iterable[OrderLine], *, refund_ms: int
) -> None:
    """Store the lines without a session, and the orders that they and the facts touch.

    Args:
        connection: The transaction, in which the facts are already written.
        found: Facts of the batch.
        unlinked: Lines of the batch that no session holds.
        refund_ms: Reversals count up to this long after the purchase of their line.
    """
    new: dict[Transaction, list[OrderLine]] = {}
    for line in unlinked:
        new.setdefault((line.client_id, line.transaction_id), []).append(line)
    touched = new.keys() | {(fact.client_id, facts.text(line.transaction_id)) for fact in found for line in fact.lines}
    ordered = sorted(touched)
    for start in range(0, len(ordered), _CHUNK):
        chunk = ordered[start : start + _CHUNK]
        linked = _linked(connection, chunk)
        without = {
            key: orders.distinct([*lines, *new.get(key, ())]) for key, lines in _unlinked(connection, chunk).items()
        }
        _upsert(
            connection,
            unlinked_lines,
            [
                {name: getattr(line, name) for name in _LINE_COLUMNS}
                for key in new.keys() & set(chunk)
                for line in without[key]
            ],
        )
        whole = (orders.order([*linked[key], *without[key]], refund_ms=refund_ms) for key in chunk)
        _upsert(connection, client_orders, [asdict(each) for each in whole if each is not None])


def _linked(connection: Connection, keys: Sequence[Transaction]) -> Mapping[Transaction, list[OrderLine]]:
    """Return the lines that sessions hold of each transaction."""
    # SQLite uses no index for a condition on pairs, here and below, so a single column narrows the rows first.
    found: dict[Transaction, list[OrderLine]] = {key: [] for key in keys}
    rows = connection.execute(
        select(session_facts.c.client_id, session_facts.c.currency, session_facts.c.evidence)
        .join(session_orders, session_orders.c.query_id == session_facts.c.query_id)
        .where(session_orders.c.transaction_id.in_({transaction_id for _, transaction_id in keys}))
        .where(tuple_(session_facts.c.client_id, session_orders.c.transaction_id).in_(keys))
        .distinct()
    )
    for client_id, currency, evidence in rows:
        for line in orders.of_session(client_id, currency, facts.decode_evidence(evidence)[1]):
            if (client_id, line.transaction_id) in found:
                found[client_id, line.transaction_id].append(line)
    return found


def _unlinked(connection: Connection, keys: Sequence[Transaction]) -> Mapping[Transaction, list[OrderLine]]:
    """Return the stored lines without a session of each transaction."""
    found: dict[Transaction, list[OrderLine]] = {key: [] for key in keys}
    columns = unlinked_lines.c
    rows = connection.execute(
        select(unlinked_lines)
        .where(columns.client_id.in_({client_id for client_id, _ in keys}))
        .where(tuple_(columns.client_id, columns.transaction_id).in_(keys))
    ).mappings()
    for row in rows:
        line = OrderLine(**row, is_linked=False)
        found[line.client_id, line.transaction_id].append(line)
    return found


def _upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    upsert = db.insert(connection, table)
    changes = {column.name: upsert.excluded[column.name] for column in table.c if not column.primary_key}
    connection.execute(upsert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes), rows)
