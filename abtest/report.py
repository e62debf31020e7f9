"""Report of an experiment, computed from one snapshot of the facts and appended to `results` and `health`.

All content comes from the facts, so that the same log gives the same report. `as_of` is the watermark of the data.

Source: docs/experiments.md.
"""

from dataclasses import asdict

from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import postgresql, sqlite

from abtest import queries
from abtest.analysis import evaluate
from abtest.results import Report, Result
from abtest.store import ExperimentStore
from abtest.tables import health, results
from stream import db

__all__ = ["Report", "report"]


def report(engine: Engine, experiment: str, *, partial: bool | None = None) -> Report:
    """Return the report of an experiment after appending it to `results` and `health`.

    Args:
        engine: A database with the newest schema.
        experiment: Key of the experiment.
        partial: Whether sessions with open attribution windows count; None means only while there are no others.

    Guarantees: a report at the same watermark replaces its own rows; readers see all of its rows or none.

    Raises:
        ConfigError: If there is no such experiment.
        StoreError: If the database is unreachable or refused.
    """
    store = ExperimentStore(engine)
    planned, epochs = store.get(experiment), store.epochs(experiment)
    with db.read(engine) as connection:
        facts = queries.read(connection, planned, partial=partial)
    found = evaluate(planned, epochs, facts)
    with db.transaction(engine) as connection:
        _store(connection, found)
    return found


def _store(connection: Connection, found: Report) -> None:
    key = {"experiment": found.experiment, "as_of": found.as_of, "partial": found.partial}
    rows = [{**key, **_columns(entry), "spec_hash": found.spec_hash} for entry in found.results]
    checks = [{**key, **asdict(check)} for check in found.checks]
    for table, content in ((results, rows), (health, checks)):
        insert = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
        unique = ("experiment", "as_of", "metric", "arm", "method", "partial")
        named = unique if table is results else ("experiment", "as_of", "check_name", "partial")
        kept = ({column.name for column in table.c} - {*named, "id"}) & set(content[0])
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=list(named), set_={name: insert.excluded[name] for name in sorted(kept)}
            ),
            content,
        )


def _columns(entry: Result) -> dict[str, object]:
    columns = asdict(entry)
    del columns["sentence"]
    return columns
