"""Sessions and their outcomes by minute, of all traffic, kept by the sink in the transaction of the facts.

A fact that is new or changed adds its counts to the minute of its impression, and those of the fact as it was stored
before come off. So the table holds what a query over the facts would add up, in any order of arrival, after copies,
corrections and crashes. It names no client.

Source: docs/experiments.md, Traffic by minute.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from sqlalchemy import Connection, delete

from abtest.tables import session_facts, traffic_minutes
from stream import db
from stream.schemas.names import NAME_LENGTH
from stream.schemas.times import MINUTE_MS

_NAMES = ("experiment", "arm", "lineage", "version", "source")
_NUM_COUNTS = sum(not column.primary_key for column in traffic_minutes.c)

Fields: TypeAlias = Mapping[str, Any]
"""Columns of `session_facts` by name."""

READ = tuple(
    session_facts.c[name]
    for name in ("impression_ts", *_NAMES, "currency", "fallback", "n_items", "clicks", "orders", "gross_minor")
)
"""Columns of a stored fact that `move` reads."""


def move(connection: Connection, *, before: Iterable[Fields], after: Iterable[Fields]) -> None:
    """Take facts off their minutes and add others.

    Args:
        connection: The transaction that writes the facts.
        before: The changed facts as they were stored.
        after: The new and the changed facts.
    """
    changes: dict[tuple[Any, ...], list[int]] = {}
    for facts, sign in ((before, -1), (after, 1)):
        for fact in facts:
            counts = changes.setdefault(_key(fact), [0] * _NUM_COUNTS)
            for place, number in enumerate(_counts(fact)):
                counts[place] += sign * number
    table = traffic_minutes.c
    rows = [
        # SQLite binds no integer above 2^63.
        dict(zip(table.keys(), (*key, *counts[:-1], float(counts[-1])), strict=True))
        for key, counts in sorted(changes.items())
        if any(counts)
    ]
    if not rows:
        return
    upsert = db.insert(connection, traffic_minutes)
    sums = {column.name: column + upsert.excluded[column.name] for column in table if not column.primary_key}
    connection.execute(upsert.on_conflict_do_update(index_elements=list(traffic_minutes.primary_key), set_=sums), rows)
    left = sorted({row["minute_ts"] for row in rows if row["sessions"] < 0})
    if left:
        connection.execute(delete(traffic_minutes).where(table.minute_ts.in_(left), table.sessions == 0))


def _key(fact: Fields) -> tuple[Any, ...]:
    # PostgreSQL refuses index rows above 2,700 bytes, and names that come with events are of any length.
    names = ((fact[name] or "")[:NAME_LENGTH] for name in _NAMES)
    return (fact["impression_ts"] // MINUTE_MS * MINUTE_MS, *names, fact["currency"])


def _counts(fact: Fields) -> tuple[int, ...]:
    fell_back = fact["fallback"] is not None
    return (1, int(fell_back), fact["n_items"], fact["clicks"], fact["orders"], fact["gross_minor"])
