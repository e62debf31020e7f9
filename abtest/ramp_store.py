"""Store of ramps: new shares of experiments, planned ramps with their health, and the events of both.

A change of the share ends the open epoch and opens the next one with the same salts and weights, in one transaction
that compares the epoch that was seen.

Source: docs/experiments.md, Ramp.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, delete, insert, select, update

from abtest.epoch_rows import deal, end_epoch, open_epoch
from abtest.experiment import Epoch, Experiment
from abtest.ramp_plan import Decision, Ramp, RampPlan
from abtest.results import Check
from abtest.store import ExperimentStore
from abtest.tables import DECISION_LENGTH, epochs, experiments, ramp_events, ramps
from stream import db
from stream.errors import ConfigError, StoreError
from stream.schemas.names import check_reason


@dataclass(frozen=True, slots=True, kw_only=True)
class RampEvent:
    """A row of `ramp_events`.

    Attributes:
        id: Number of the row; later events have higher ones.
        event: `planned`, `step`, `frozen`, `resumed` or `ended`.
        actor: `controller` with its term, or the name of a user.
        epoch: Number of the epoch that is open after the event.
        share: Share of all clients that takes part after the event.
        evidence: Checks, causes and versions that it rests on.
        event_ts: Epoch milliseconds.
    """

    id: int
    experiment: str
    event: str
    actor: str
    why: str
    epoch: int
    share: float
    evidence: Mapping[str, Any]
    event_ts: int


class _Present(NamedTuple):
    """The open epoch after an event, its share of all clients, and the time of the event."""

    epoch: int
    share: float
    now_ts: int


class RampStore:
    """Ramps of the experiments of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._experiments = ExperimentStore(engine)

    def set_share(
        self, key: str, share: float, *, now_ts: int, reason: str, actor: str = "user", shrink: bool = False
    ) -> Epoch:
        """Open an epoch in which another share of all clients takes part, and return it.

        Clients of the experiment keep their arms; more coverage adds clients, and less takes clients away. A smaller
        share, or one above the last step, ends a planned ramp.

        Args:
            key: The experiment.
            share: Share of all clients that take part from now on.
            now_ts: Start of the epoch.
            reason: Text that is stored with the epoch.
            actor: Who gives the command.
            shrink: Whether a smaller share is meant.

        Raises:
            ConfigError: If a value is refused, or the experiment does not run.
            StoreError: If the database is unreachable or refused, or another process changed the allocation meanwhile.
        """
        experiment, former = self._running(key)
        check_reason("why", reason)
        if len(reason) > DECISION_LENGTH:
            raise ConfigError(f"reason: {len(reason)} characters, expected at most {DECISION_LENGTH}")
        if share == former.coverage:
            raise ConfigError(f"share = {share:g}: experiment '{key}' has that share already")
        if share < former.coverage and not shrink:
            raise ConfigError(
                f"share = {share:g}: less than the present {former.coverage:g}; clients would leave the experiment, "
                "which --shrink allows"
            )
        with db.transaction(self._engine) as connection:
            _open_epoch(connection, experiment, former, share=share, now_ts=now_ts, reason=reason)
            opened = _Present(former.number + 1, share, now_ts)
            _record(connection, key, "step", opened, actor=actor, why=reason)
            planned = connection.execute(select(ramps.c.steps).where(ramps.c.experiment == key)).scalar_one_or_none()
            if planned is not None and (share < former.coverage or share >= planned[-1]):
                _end(connection, key, opened, actor=actor, why=f"the share was set to {share:g}")
        return self._experiments.epochs(key)[-1]

    def plan(self, key: str, plan: RampPlan, *, now_ts: int, actor: str, reason: str = "ramp") -> Ramp:
        """Plan a ramp in place of the former plan, and return it; the controller carries it out.

        Args:
            key: The experiment.
            plan: The steps.
            now_ts: Time of the command.
            actor: Who gives the command.
            reason: Text for the event.

        Raises:
            ConfigError: If the experiment does not run, no step is above its share, a step leaves an arm without
                enough buckets, or the reason is empty.
            StoreError: If the database is unreachable or refused.
        """
        check_reason("why", reason)
        experiment, present = self._running(key)
        ramp = Ramp(
            experiment=key,
            plan=plan,
            # Begins with the time, so that a plan that follows another one never has a version that was seen before.
            row_version=now_ts,
            arms=experiment.arms,
            share=present.coverage,
            epoch=present.number,
            start_ts=present.start_ts,
        )
        if ramp.next_share is None:
            raise ConfigError(f"steps: experiment '{key}' has {present.coverage:g} of all clients, no step is above it")
        _deal(experiment, present, ramp.next_share)
        shown = ", ".join(f"{step:g}" for step in plan.steps)
        with db.transaction(self._engine) as connection:
            connection.execute(delete(ramps).where(ramps.c.experiment == key))
            connection.execute(
                insert(ramps).values(
                    experiment=key,
                    row_version=ramp.row_version,
                    steps=list(plan.steps),
                    every_ms=plan.every_ms,
                    checks=[],
                    held={},
                )
            )
            now = _Present(ramp.epoch, ramp.share, now_ts)
            _record(connection, key, "planned", now, actor=actor, why=f"{reason}: steps {shown}", evidence=asdict(plan))
        return ramp

    def end(self, key: str, *, now_ts: int, actor: str, reason: str) -> bool:
        """End a planned ramp at the present share, and return whether there was one.

        Raises:
            ConfigError: If there is no such experiment, or the reason is empty.
            StoreError: If the database is unreachable or refused.
        """
        check_reason("why", reason)
        self._experiments.get(key)
        present = self._experiments.epochs(key)[-1]
        with db.transaction(self._engine) as connection:
            now = _Present(present.number, present.coverage, now_ts)
            return _end(connection, key, now, actor=actor, why=reason)

    def ramps(self) -> list[Ramp]:
        """Return the planned ramps of the running experiments, by key.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        with db.read(self._engine) as connection:
            rows = connection.execute(
                select(ramps, epochs.c.number, epochs.c.start_ts, epochs.c.coverage)
                .join(experiments, experiments.c.key == ramps.c.experiment)
                .join(epochs, epochs.c.experiment == ramps.c.experiment)
                .where(experiments.c.status == "running", epochs.c.end_ts.is_(None))
                .order_by(ramps.c.experiment)
            ).all()
        return [
            Ramp(
                experiment=row.experiment,
                plan=RampPlan(steps=tuple(row.steps), every_ms=row.every_ms),
                row_version=row.row_version,
                arms=self._experiments.get(row.experiment).arms,
                share=row.coverage,
                epoch=row.number,
                start_ts=row.start_ts,
                checks=tuple(msgspec.convert(row.checks, list[Check])),
                as_of=row.as_of,
                held=row.held,
                held_since=row.held_since,
            )
            for row in rows
        ]

    def write_health(self, ramp: Ramp, checks: Sequence[Check], as_of: int | None) -> bool:
        """Store the checks of a ramp's open epoch, and return whether the ramp was still as it was seen."""
        with db.transaction(self._engine) as connection:
            return _write(connection, ramp, checks=[asdict(check) for check in checks], as_of=as_of)

    def step(
        self,
        ramp: Ramp,
        share: float,
        *,
        now_ts: int,
        actor: str,
        lineages: Mapping[str, int],
        guard: Callable[[Connection], None],
    ) -> bool:
        """Take a step of a ramp, and return whether the ramp was still as it was seen.

        Args:
            ramp: The ramp as it was seen.
            share: Share of the step.
            now_ts: Start of the new epoch.
            actor: Who takes the step.
            lineages: Lineage of an arm to its live version, for the event.
            guard: Called in the transaction; its error refuses the step.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        experiment, former = self._running(ramp.experiment)
        if former.number != ramp.epoch:
            return False
        reason = f"ramp: {former.coverage:g} to {share:g}"
        evidence = {"checks": [asdict(check) for check in ramp.checks], "as_of": ramp.as_of, "live": dict(lineages)}
        with db.transaction(self._engine) as connection:
            guard(connection)
            if not _write(connection, ramp, checks=[], as_of=None, held={}, held_since=None):
                return False
            _open_epoch(connection, experiment, former, share=share, now_ts=now_ts, reason=reason)
            opened = _Present(ramp.epoch + 1, share, now_ts)
            _record(connection, ramp.experiment, "step", opened, actor=actor, why=reason, evidence=evidence)
            if share >= ramp.plan.steps[-1]:
                _end(connection, ramp.experiment, opened, actor=actor, why="all steps are done")
        return True

    def hold(
        self, ramp: Ramp, decision: Decision, *, now_ts: int, actor: str, guard: Callable[[Connection], None]
    ) -> bool:
        """Record what freezes a ramp, or that nothing does any more; return whether the ramp was as it was seen.

        Raises:
            StoreError: If the database is unreachable or refused.
        """
        why = ", ".join(decision.held) or "all checks passed"
        event = "frozen" if decision.held else "resumed"
        with db.transaction(self._engine) as connection:
            guard(connection)
            since = now_ts if decision.held else None
            if not _write(connection, ramp, held=dict(decision.held), held_since=since):
                return False
            evidence = {"held": dict(decision.held), "as_of": ramp.as_of}
            now = _Present(ramp.epoch, ramp.share, now_ts)
            _record(connection, ramp.experiment, event, now, actor=actor, why=why, evidence=evidence)
        return True

    def events(self, key: str) -> list[RampEvent]:
        """Return the events of an experiment's share, the oldest first."""
        with db.read(self._engine) as connection:
            found = select(ramp_events).where(ramp_events.c.experiment == key).order_by(ramp_events.c.id)
            return [RampEvent(**row) for row in connection.execute(found).mappings()]

    def _running(self, key: str) -> tuple[Experiment, Epoch]:
        experiment = self._experiments.get(key)
        if experiment.status != "running":
            raise ConfigError(f"experiment '{key}' is {experiment.status}; only a running one has a share to change")
        return experiment, self._experiments.epochs(key)[-1]


def _deal(experiment: Experiment, former: Epoch, share: float) -> NDArray[np.int16]:
    return deal(experiment.key, experiment.arms, former.weights, share, experiment.plan.hold_out or 0.0)


def _open_epoch(
    connection: Connection, experiment: Experiment, former: Epoch, *, share: float, now_ts: int, reason: str
) -> None:
    if now_ts <= former.start_ts:
        raise ConfigError(
            f"experiment '{experiment.key}': epoch {former.number} starts at {former.start_ts}, not before now"
        )
    table = _deal(experiment, former, share)
    if not end_epoch(connection, experiment.key, end_ts=now_ts, number=former.number):
        raise StoreError(f"experiment '{experiment.key}': another process changed the allocation or stopped it")
    open_epoch(
        connection,
        experiment.key,
        former.number + 1,
        table,
        weights=former.weights,
        share=share,
        start_ts=now_ts,
        reason=reason,
    )


def _write(connection: Connection, ramp: Ramp, **values: object) -> bool:
    """Write values to a ramp's row, and return whether it was still as it was seen."""
    written = connection.execute(
        update(ramps)
        .where(ramps.c.experiment == ramp.experiment, ramps.c.row_version == ramp.row_version)
        .values(row_version=ramp.row_version + 1, **values)
    )
    return bool(written.rowcount)


def _end(connection: Connection, key: str, now: _Present, *, actor: str, why: str) -> bool:
    removed = connection.execute(delete(ramps).where(ramps.c.experiment == key)).rowcount
    if removed:
        _record(connection, key, "ended", now, actor=actor, why=why)
    return bool(removed)


def _record(
    connection: Connection,
    key: str,
    event: str,
    now: _Present,
    *,
    actor: str,
    why: str,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    connection.execute(
        insert(ramp_events).values(
            experiment=key,
            event=event,
            actor=actor,
            why=why[:DECISION_LENGTH],
            epoch=now.epoch,
            share=now.share,
            evidence=dict(evidence or {}),
            event_ts=now.now_ts,
        )
    )
