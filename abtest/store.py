"""Store of experiments: their arms and epochs, and the active allocation of each layer.

Source: docs/experiments.md.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace

import msgspec
from sqlalchemy import Connection, Engine, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from abtest import buckets
from abtest.epoch_rows import deal, end_epoch, open_epoch
from abtest.experiment import POLICIES, ActiveExperiment, Arm, Epoch, Experiment, are_unequal
from abtest.metrics import METRICS
from abtest.plan import Plan
from abtest.tables import ANALYSED_LAYER, DECISION_LENGTH, arms, epochs, experiments
from stream import db
from stream.errors import ConfigError, StoreError
from stream.schemas.names import check_name


class ExperimentStore:
    """Experiments of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        *,
        key: str,
        arms: Sequence[Arm],
        now_ts: int,
        layer: str = ANALYSED_LAYER,
        salt: str | None = None,
        share: float = 1.0,
        weights: Sequence[float] | None = None,
        plan: Plan | None = None,
    ) -> ActiveExperiment:
        """Create an experiment with its arms and first epoch in one transaction, and start it.

        Args:
            key: Name of the experiment, also the salt of its bucket order.
            arms: Two or more, exactly one of them the control.
            now_ts: Start of the first epoch.
            layer: One experiment runs in a layer at a time.
            salt: Salt of the layer; None keeps the one in use there, or starts with `<layer>-1`.
            share: Share of all clients that take part.
            weights: Share of each arm among those; equal by default.
            plan: Declared plan, which never changes.

        Raises:
            ConfigError: If a value is refused, or the layer is taken.
            StoreError: If the database is unreachable or refused.
        """
        plan = plan or Plan()
        check_name("name", key)
        check_name("layer", layer)
        _check_arms(arms)
        shares = tuple(weights) if weights is not None else (1.0 / len(arms),) * len(arms)
        if len(shares) != len(arms):
            raise ConfigError(
                f"experiment '{key}': weights = {list(shares)}: expected one for each of {len(arms)} arms"
            )
        _check_adjustable(plan, arms, shares)
        with db.transaction(self._engine) as connection:
            hold_out = _layer_hold_out(connection, layer) if plan.hold_out is None else plan.hold_out
            plan = replace(plan, hold_out=hold_out)
            table = deal(key, arms, shares, share, hold_out)
            chosen = _layer_salt(connection, layer, salt)
            _check_free(connection, key, layer)
            made = Experiment(
                key=key,
                layer=layer,
                salt=chosen,
                plan=plan,
                spec_hash=_spec_hash([key, layer, chosen, list(map(asdict, arms)), list(shares), share, asdict(plan)]),
                status="running",
                decision=None,
                created_ts=now_ts,
                arms=tuple(arms),
            )
            try:
                _insert(connection, made)
                open_epoch(connection, key, 1, table, weights=shares, share=share, start_ts=now_ts, reason="start")
            except IntegrityError as error:
                raise StoreError(
                    f"experiment '{key}' in layer '{layer}': created by another process: {error.orig}"
                ) from error
        found = self.active(layer)
        if found is None or found.experiment != key:
            raise StoreError(f"experiment '{key}' was stopped by another process while it was created")
        return found

    def active(self, layer: str = ANALYSED_LAYER) -> ActiveExperiment | None:
        """Return the running experiment of a layer with its newest allocation.

        Raises:
            StoreError: If the database is unreachable, or the stored allocation is damaged.
        """
        with db.read(self._engine) as connection:
            row = connection.execute(
                select(experiments.c.key, experiments.c.salt, epochs)
                .join(epochs, epochs.c.experiment == experiments.c.key)
                .where(experiments.c.layer == layer, experiments.c.status == "running", epochs.c.end_ts.is_(None))
                .order_by(epochs.c.number.desc())
                .limit(1)
            ).one_or_none()
            if row is None:
                return None
            members = _arms(connection, row.key)
        table = buckets.from_bytes(row.buckets)
        if buckets.sha256(table) != row.buckets_sha256:
            raise StoreError(f"experiment '{row.key}', epoch {row.number}: buckets differ from their sha256")
        table.setflags(write=False)
        return ActiveExperiment(
            experiment=row.key,
            layer=layer,
            salt=row.salt,
            epoch=row.number,
            arms=members,
            table=table,
            sha256=row.buckets_sha256,
        )

    def get(self, key: str) -> Experiment:
        """Return one experiment.

        Raises:
            ConfigError: If there is no experiment of that name.
        """
        found = {experiment.key: experiment for experiment in self.list()}
        if key not in found:
            raise ConfigError(f"experiment '{key}' does not exist; known: {', '.join(sorted(found)) or 'none'}")
        return found[key]

    def list(self) -> list[Experiment]:
        """Return all experiments, the oldest first."""
        with db.read(self._engine) as connection:
            rows = connection.execute(select(experiments).order_by(experiments.c.created_ts, experiments.c.key)).all()
            return [_experiment(connection, row) for row in rows]

    def epochs(self, key: str) -> tuple[Epoch, ...]:
        """Return the epochs of an experiment, the oldest first."""
        with db.read(self._engine) as connection:
            rows = connection.execute(select(epochs).where(epochs.c.experiment == key).order_by(epochs.c.number)).all()
        return tuple(
            Epoch(
                number=row.number,
                start_ts=row.start_ts,
                end_ts=row.end_ts,
                coverage=row.coverage,
                weights=tuple(row.weights),
                dealt=buckets.dealt(buckets.from_bytes(row.buckets), len(row.weights)),
                sha256=row.buckets_sha256,
            )
            for row in rows
        )

    def stop(self, key: str, *, now_ts: int, decision: str | None = None) -> None:
        """Stop an experiment and end its epoch; facts and results stay. A second stop changes nothing.

        Raises:
            ConfigError: If there is no experiment of that name, or the decision is too long.
        """
        self.get(key)
        if decision is not None and len(decision) > DECISION_LENGTH:
            raise ConfigError(f"decision: {len(decision)} characters, expected at most {DECISION_LENGTH}")
        with db.transaction(self._engine) as connection:
            stopped = connection.execute(
                update(experiments)
                .where(experiments.c.key == key, experiments.c.status == "running")
                .values(status="stopped", decision=decision)
            )
            if stopped.rowcount:
                end_epoch(connection, key, end_ts=now_ts)


def _check_arms(members: Sequence[Arm]) -> None:
    if len(members) < 2:
        raise ConfigError(f"arms: expected two or more, got {len(members)}")
    names = [arm.name for arm in members]
    for arm in members:
        check_name("arm", arm.name)
        if (arm.lineage is None) == (arm.policy is None):
            raise ConfigError(f"arm '{arm.name}': expected either a lineage or a fixed policy")
        if arm.lineage is not None:
            check_name(f"lineage of arm '{arm.name}'", arm.lineage)
        if arm.policy is not None and arm.policy not in POLICIES:
            raise ConfigError(f"arm '{arm.name}': policy '{arm.policy}', expected one of {', '.join(POLICIES)}")
    if len(set(names)) != len(names):
        raise ConfigError(f"arms: names must differ, got {', '.join(names)}")
    controls = [arm.name for arm in members if arm.is_control]
    if len(controls) != 1:
        raise ConfigError(f"arms: expected exactly one control, got {', '.join(controls) or 'none'}")


def _layer_hold_out(connection: Connection, layer: str) -> float:
    """Return the hold-out of the newest experiment of a layer, 0 before the first one."""
    newest = connection.execute(
        select(experiments.c.plan)
        .where(experiments.c.layer == layer)
        .order_by(experiments.c.created_ts.desc(), experiments.c.key.desc())
        .limit(1)
    ).scalar_one_or_none()
    return 0.0 if newest is None else msgspec.convert(newest, Plan).hold_out or 0.0


def _layer_salt(connection: Connection, layer: str, wanted: str | None) -> str:
    in_use = connection.execute(
        select(experiments.c.salt)
        .where(experiments.c.layer == layer)
        .order_by(experiments.c.created_ts.desc(), experiments.c.key.desc())
        .limit(1)
    ).scalar_one_or_none()
    try:
        chosen = buckets.check_salt((in_use or f"{layer}-1") if wanted is None else wanted)
    except ValueError as error:
        raise ConfigError(f"layer '{layer}': {error}") from error
    other = connection.execute(
        select(experiments.c.layer).where(experiments.c.salt == chosen, experiments.c.layer != layer).limit(1)
    ).scalar_one_or_none()
    if other is not None:
        raise ConfigError(f"salt = '{chosen}': layer '{other}' has it; layers with one salt are not independent")
    return chosen


def _check_free(connection: Connection, key: str, layer: str) -> None:
    if connection.execute(select(experiments.c.key).where(experiments.c.key == key)).one_or_none() is not None:
        raise ConfigError(f"experiment '{key}' exists already; its plan is fixed, choose another name")
    running = connection.execute(
        select(experiments.c.key).where(experiments.c.layer == layer, experiments.c.status == "running")
    ).scalar_one_or_none()
    if running is not None:
        raise ConfigError(
            f"layer '{layer}' runs experiment '{running}'; stop it first: shelfwise abtest stop {running}"
        )


def _insert(connection: Connection, made: Experiment) -> None:
    connection.execute(
        insert(experiments).values(
            key=made.key,
            layer=made.layer,
            salt=made.salt,
            plan=asdict(made.plan),
            spec_hash=made.spec_hash,
            status=made.status,
            created_ts=made.created_ts,
        )
    )
    connection.execute(
        insert(arms),
        [{"experiment": made.key, "number": number, **asdict(arm)} for number, arm in enumerate(made.arms)],
    )


def _check_adjustable(plan: Plan, members: Sequence[Arm], shares: Sequence[float]) -> None:
    """Refuse a plan whose looks could not adjust the primary metric.

    Raises:
        ConfigError: If money is adjusted in unequal arms.
    """
    if plan.cuped_days is None or plan.primary is None or not METRICS[plan.primary].is_money:
        return
    control = next(share for arm, share in zip(members, shares, strict=True) if arm.is_control)
    for arm, share in zip(members, shares, strict=True):
        if are_unequal(control, share):
            raise ConfigError(
                f"cuped_days = {plan.cuped_days:g}: the arm '{arm.name}' and the control are further apart than 60 to "
                "40, where money has the spread of both arms and is not adjusted; give equal weights or another primary"
            )


def _spec_hash(document: Sequence[object]) -> str:
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()


def _experiment(connection: Connection, row: Row[tuple[object, ...]]) -> Experiment:
    return Experiment(
        key=row.key,
        layer=row.layer,
        salt=row.salt,
        plan=msgspec.convert(row.plan, Plan),
        spec_hash=row.spec_hash,
        status=row.status,
        decision=row.decision,
        created_ts=row.created_ts,
        arms=_arms(connection, row.key),
    )


def _arms(connection: Connection, key: str) -> tuple[Arm, ...]:
    rows = connection.execute(select(arms).where(arms.c.experiment == key).order_by(arms.c.number)).all()
    return tuple(Arm(name=row.name, lineage=row.lineage, policy=row.policy, is_control=row.is_control) for row in rows)
