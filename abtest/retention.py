"""Removal of facts, sums and monitoring results that no report needs any more, in small transactions.

Time is that of the events. The report of a stopped experiment is stored before its first row goes, so that a run that
ends at any point is continued by the next one.

Source: docs/experiments.md, Retention.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import Column, ColumnElement, Connection, Engine, Table, and_, bindparam, delete, func, or_, select

from abtest import final_reports, tables
from abtest.experiment import Epoch, Experiment
from abtest.fact_writer import lock_sink, progress
from abtest.report import report
from abtest.results import Report
from abtest.store import ExperimentStore
from abtest.tables import client_orders, exposures, session_facts, session_orders, unlinked_lines
from stream import db
from stream.schemas.times import DAY_MS, MINUTE_MS

_log = logging.getLogger("shelfwise.abtest")

# Rows of one transaction, which takes some 10 ms on SQLite.
_CHUNK = 50
# Rows of one table and call, so that reports do not wait long for a first removal.
_MAX_ROWS = 10_000


Key: TypeAlias = tuple[object, ...]
"""Primary key of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """Experiments without a final report, and the time from which they or the history need facts."""

    open: tuple[str, ...]
    from_ts: int


class Retention:
    """Removal of what is older than the settings."""

    def __init__(
        self,
        engine: Engine,
        *,
        keep_facts_days: float,
        keep_history_days: float,
        pause: Callable[[float], object],
        on_removed: Callable[[str, int], object] | None = None,
    ) -> None:
        """Prepare removals.

        Args:
            engine: A database with the newest schema.
            keep_facts_days: Days of event time after the end of an experiment.
            keep_history_days: Days before the watermark of which facts are kept for any client.
            pause: Called with seconds between two transactions, so that other writers come in; true ends the call.
            on_removed: Called with the name of a table and its number of removed rows.
        """
        self._engine = engine
        self._keep_ms = round(keep_facts_days * DAY_MS)
        self._history_ms = round(keep_history_days * DAY_MS)
        self._pause = pause
        self._on_removed = on_removed

    def apply(self) -> tuple[Report, ...]:
        """Store the final reports that are due, remove a bounded number of rows, and return these reports.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        with db.read(self._engine) as connection:
            watermark_ts, matured_ts = progress(connection)
        if watermark_ts is None or matured_ts is None:
            return ()
        closed = self._close(watermark_ts, matured_ts)
        removed = self._remove(self._scope(watermark_ts))
        if removed:
            counts = ", ".join(f"{name} {number}" for name, number in sorted(removed.items()))
            _log.info("removed rows by age: %s", counts)
        return closed

    def _close(self, watermark_ts: int, matured_ts: int) -> tuple[Report, ...]:
        """Store the final report of each experiment whose facts are due to go."""
        store, closed = ExperimentStore(self._engine), []
        done = self._with_final_report()
        for experiment in store.list():
            if experiment.key in done or experiment.status == "running":
                continue
            end_ts = store.epochs(experiment.key)[-1].end_ts
            if end_ts is None or watermark_ts < end_ts + self._keep_ms:
                continue
            if matured_ts - 1_000 * experiment.plan.refund_s < end_ts:
                continue
            final = self._finish(experiment.key)
            if final is not None:
                closed.append(final)
        return tuple(closed)

    def _finish(self, key: str) -> Report | None:
        found = report(self._engine, key)
        with db.transaction(self._engine) as connection:
            # A look at the same time waits here, and then finds the final report.
            connection.execute(
                select(tables.experiments.c.key).where(tables.experiments.c.key == key).with_for_update()
            )
            looks = connection.execute(
                select(func.count()).select_from(tables.looks).where(tables.looks.c.experiment == key)
            ).scalar_one()
            if looks != len(found.looks):
                return None
            if not final_reports.write(connection, found):
                _log.error("experiment '%s': its report cannot be stored, so that its facts stay", key)
                return None
            final = final_reports.read(connection, key)
        _log.info("experiment '%s': the final report is stored, and its facts go; verdict: %s", key, found.verdict)
        return final

    def _with_final_report(self) -> set[str]:
        with db.read(self._engine) as connection:
            return set(connection.execute(select(tables.final_reports.c.experiment)).scalars())

    def _scope(self, watermark_ts: int) -> _Scope:
        store, done = ExperimentStore(self._engine), self._with_final_report()
        unfinished = [each for each in store.list() if each.key not in done]
        needed = [_needed_ts(each, store.epochs(each.key)) for each in unfinished]
        return _Scope(
            open=tuple(each.key for each in unfinished), from_ts=min([watermark_ts - self._history_ms, *needed])
        )

    def _remove(self, scope: _Scope) -> Counter[str]:
        removed: Counter[str] = Counter()
        for table, condition in _due(scope):
            keys = self._keys(table, condition)
            for start in range(0, len(keys), _CHUNK):
                number = self._delete(table, keys[start : start + _CHUNK])
                removed[table.name] += number
                if self._on_removed is not None:
                    self._on_removed(table.name, number)
                if self._pause(db.PAUSE_S):
                    return removed
        return +removed

    def _keys(self, table: Table, condition: ColumnElement[bool]) -> list[Key]:
        # Rows are looked for in a read, which makes no writer wait.
        with db.read(self._engine) as connection:
            rows = connection.execute(select(*table.primary_key).where(condition).limit(_MAX_ROWS))
            return [tuple(row) for row in rows]

    def _delete(self, table: Table, keys: Sequence[Key]) -> int:
        with db.transaction(self._engine) as connection:
            lock_sink(connection)
            if table is session_facts:
                _delete_keys(connection, session_orders, [session_orders.c.query_id], keys)
            return _delete_keys(connection, table, list(table.primary_key), keys)


def _delete_keys(connection: Connection, table: Table, columns: Sequence[Column[object]], keys: Sequence[Key]) -> int:
    # One statement for each key: SQLite scans the table for a list of keys of several columns.
    names = [f"key_{column.name}" for column in columns]
    equal = [column == bindparam(name) for column, name in zip(columns, names, strict=True)]
    rows = [dict(zip(names, key, strict=True)) for key in keys]
    return connection.execute(delete(table).where(*equal), rows).rowcount


def _needed_ts(experiment: Experiment, epochs: Sequence[Epoch]) -> int:
    """Return the time from which an experiment needs facts: its past, and the sessions of its orders."""
    plan = experiment.plan
    return epochs[0].start_ts - round(DAY_MS * (plan.cuped_days or 0.0)) - 1_000 * plan.attribution_s


def _due(scope: _Scope) -> tuple[tuple[Table, ColumnElement[bool]], ...]:
    """Return the rows that go, of each table."""
    facts, old = session_facts.c, scope.from_ts
    closed = select(tables.final_reports.c.experiment)
    rows = [
        (
            session_facts,
            and_(facts.impression_ts < old, or_(facts.experiment.is_(None), facts.experiment.not_in(scope.open))),
        ),
        (client_orders, client_orders.c.bought_ts < old),
        (unlinked_lines, unlinked_lines.c.event_ts < old),
        # A minute goes when the last of its sessions may.
        (tables.traffic_minutes, tables.traffic_minutes.c.minute_ts <= old - MINUTE_MS),
        (exposures, and_(exposures.c.first_ts < old, exposures.c.experiment.not_in(scope.open))),
    ]
    rows += [
        (table, table.c.experiment.in_(closed)) for table in (tables.client_sums, tables.arm_sums, tables.moment_cuts)
    ]
    for table in (tables.results, tables.health):
        last = select(tables.final_reports.c.as_of).where(tables.final_reports.c.experiment == table.c.experiment)
        rows.append((table, table.c.as_of < last.scalar_subquery()))
    return tuple(rows)
