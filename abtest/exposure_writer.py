"""Writer of the first exposure of each client in each experiment.

Source: docs/experiments.md.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, or_

from abtest.facts import Fact
from abtest.tables import exposures
from stream import db
from stream.schemas.session import AssignedArm


def exposures_of(found: Iterable[Fact]) -> list[dict[str, object]]:
    """Return the first exposure of each client in each experiment, with `multi_arm` set if the arms differ."""
    first: dict[tuple[str, str], tuple[Fact, AssignedArm]] = {}
    arms: dict[tuple[str, str], set[str]] = {}
    for fact in sorted(found, key=lambda fact: (fact.impression_ts, fact.query_id)):
        for entry in fact.assignment:
            key = (entry.experiment, fact.client_id)
            first.setdefault(key, (fact, entry))
            arms.setdefault(key, set()).add(entry.arm)
    return [
        {
            "experiment": entry.experiment,
            "client_id": fact.client_id,
            "layer": entry.layer,
            "arm": entry.arm,
            "epoch": entry.epoch,
            "bucket": entry.bucket,
            "first_ts": fact.impression_ts,
            "query_id": fact.query_id,
            "lineage": fact.lineage,
            "version": fact.version,
            "fallback": fact.fallback,
            "triggered": fact.triggered,
            "multi_arm": len(arms[key]) > 1,
        }
        for key, (fact, entry) in sorted(first.items())
    ]


def write_exposures(connection: Connection, rows: list[dict[str, object]]) -> None:
    """Insert exposures, or take up those that are earlier or in another arm than the stored ones."""
    if not rows:
        return
    upsert = db.insert(connection, exposures)
    new, old = upsert.excluded, exposures.c
    # The smallest (first_ts, query_id) wins in any order of arrival, so that a replay ends in the same rows.
    earlier = or_(new.first_ts < old.first_ts, and_(new.first_ts == old.first_ts, new.query_id < old.query_id))
    changes: dict[str, ColumnElement[Any]] = {
        column.name: case((earlier, new[column.name]), else_=column)
        for column in exposures.c
        if not column.primary_key and column.name != "multi_arm"
    }
    changes["multi_arm"] = or_(old.multi_arm, new.multi_arm, old.arm != new.arm)
    connection.execute(upsert.on_conflict_do_update(index_elements=[old.experiment, old.client_id], set_=changes), rows)
