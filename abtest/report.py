"""Report of an experiment, computed from one snapshot of the facts, and the looks that its owner takes.

All content comes from the facts and the stored looks, so that the same log gives the same report. `as_of` is the
watermark of the data.

Source: docs/experiments.md.
"""

from dataclasses import asdict, fields, replace

from sqlalchemy import Connection, Engine, insert, select

from abtest import final_reports, health, looks, queries, standing, tables, timeline
from abtest.analysis import as_of, evaluate
from abtest.looks import Look
from abtest.results import AdjustedResult, Report, Result
from abtest.store import ExperimentStore
from stream import db

__all__ = ["Report", "decide", "report"]


def report(engine: Engine, experiment: str, *, partial: bool | None = None) -> Report:
    """Return the report of an experiment after appending it to `results` and `health`; it takes no look.

    Args:
        engine: A database with the newest schema.
        experiment: Key of the experiment.
        partial: Whether sessions with open attribution windows count; None means only while there are no others.

    Guarantees: a report at the same watermark replaces its own rows; readers see all of its rows or none. A verdict
    that a look gave is printed unchanged. Once the facts are removed, the final report is returned and says so.

    Raises:
        ConfigError: If there is no such experiment.
        StoreError: If the database is unreachable or refused.
    """
    store = ExperimentStore(engine)
    planned, epochs = store.get(experiment), store.epochs(experiment)
    with db.read(engine) as connection:
        final = final_reports.read(connection, experiment)
        if final is not None:
            return final
        facts = queries.read(connection, planned, epochs, partial=partial)
        taken = _looks(connection, experiment)
    found = evaluate(planned, epochs, facts, taken)
    with db.transaction(engine) as connection:
        _store(connection, found)
    return _with_timeline(engine, found)


def decide(engine: Engine, experiment: str) -> Report:
    """Take a look at each arm without a verdict, if the facts allow one, and return the report with the looks.

    Args:
        engine: A database with the newest schema.
        experiment: Key of the experiment.

    Guarantees: the looks are stored in one transaction. A second call at the same watermark, or after the last look,
    takes none and returns the same verdict. Once the facts are removed, none is taken and the final report is returned.

    Raises:
        ConfigError: If there is no such experiment.
        StoreError: If the database is unreachable or refused.
    """
    store = ExperimentStore(engine)
    planned, epochs = store.get(experiment), store.epochs(experiment)
    with db.read(engine) as connection:
        facts = queries.read(connection, planned, epochs)
    hindrance = standing.obstacle(planned, facts, health.checks(planned, epochs, facts))
    with db.transaction(engine) as connection:
        # Another look at the same time waits here, and then finds this one.
        connection.execute(
            select(tables.experiments.c.key).where(tables.experiments.c.key == experiment).with_for_update()
        )
        final = final_reports.read(connection, experiment)
        if final is not None:
            return final
        taken = _looks(connection, experiment)
        new = looks.take(planned, facts, as_of(facts), taken) if hindrance is None else []
        if new:
            connection.execute(insert(tables.looks), [{"experiment": experiment, **asdict(look)} for look in new])
        found = evaluate(planned, epochs, facts, [*taken, *new])
        _store(connection, found)
    return _with_timeline(engine, found)


def _with_timeline(engine: Engine, found: Report) -> Report:
    with db.read(engine) as connection:
        return replace(found, timeline=timeline.read(connection, found.experiment, up_to_ts=found.as_of))


def _looks(connection: Connection, experiment: str) -> list[Look]:
    names = [entry.name for entry in fields(Look)]
    rows = connection.execute(
        select(*(tables.looks.c[name] for name in names))
        .where(tables.looks.c.experiment == experiment)
        .order_by(tables.looks.c.number, tables.looks.c.arm)
    )
    return [Look(**row) for row in rows.mappings()]


def _store(connection: Connection, found: Report) -> None:
    key = {"experiment": found.experiment, "as_of": found.as_of, "partial": found.partial}
    adjusted = {(entry.metric, entry.arm): entry for entry in found.adjusted}
    rows = [
        {**key, **_columns(entry, adjusted.get((entry.metric, entry.arm))), "spec_hash": found.spec_hash}
        for entry in found.results
    ]
    checks = [{**key, **asdict(check)} for check in found.checks]
    for table, content in ((tables.results, rows), (tables.health, checks)):
        upsert = db.insert(connection, table)
        unique = ("experiment", "as_of", "metric", "arm", "method", "partial")
        named = unique if table is tables.results else ("experiment", "as_of", "check_name", "partial")
        kept = ({column.name for column in table.c} - {*named, "id"}) & set(content[0])
        connection.execute(
            upsert.on_conflict_do_update(
                index_elements=list(named), set_={name: upsert.excluded[name] for name in sorted(kept)}
            ),
            content,
        )


def _columns(entry: Result, adjusted: AdjustedResult | None) -> dict[str, object]:
    columns = asdict(entry)
    del columns["sentence"]
    for name in ("lift", "cs_lo", "cs_hi", "cs_kind", "cs_p", "variance_ratio"):
        columns[f"cuped_{name}"] = None if adjusted is None else getattr(adjusted, name)
    return columns
