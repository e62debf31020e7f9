"""Ramp of an experiment: a larger share of clients, by hand or by a plan, while the health checks hold.

Source: docs/experiments.md, Ramp.
"""

from sqlalchemy import Engine

from abtest import ramp_health
from abtest.experiment import Epoch
from abtest.ramp_plan import next_step
from abtest.ramp_store import RampStore
from abtest.store import ExperimentStore
from stream import db
from stream.errors import ConfigError


def ramp(
    engine: Engine,
    key: str,
    share: float | None,
    *,
    now_ts: int,
    reason: str,
    actor: str = "user",
    shrink: bool = False,
) -> Epoch:
    """Set the share of clients that take part in an experiment, and return the new epoch.

    Args:
        engine: A database with the newest schema.
        key: The experiment.
        share: Share of all clients; None takes the next of `abtest.ramp_plan.STEPS`.
        now_ts: Start of the epoch.
        reason: Text that is stored with the epoch.
        actor: Who gives the command.
        shrink: Whether a smaller share is meant.

    Raises:
        ConfigError: If a value is refused, or a health check is blocked and the share would grow.
        StoreError: If the database is unreachable or refused, or another process changed the allocation meanwhile.
    """
    store = ExperimentStore(engine)
    experiment, epochs = store.get(key), store.epochs(key)
    present = epochs[-1].coverage
    wanted = next_step(present) if share is None else share
    if wanted is None:
        raise ConfigError(f"experiment '{key}': all clients take part already")
    if wanted > present:
        with db.read(engine) as connection:
            checks, _ = ramp_health.read(connection, experiment, epochs)
        blocked = [check for check in checks if check.status == "blocked"]
        if blocked:
            named = "; ".join(f"{check.check_name}: {check.detail}" for check in blocked)
            raise ConfigError(f"experiment '{key}' stays at {present:g} of all clients, as a check is blocked: {named}")
    return RampStore(engine).set_share(key, wanted, now_ts=now_ts, reason=reason, actor=actor, shrink=shrink)


def write_health(engine: Engine) -> int:
    """Compute and store the health of each planned ramp, and return the number of ramps.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    experiments, store = ExperimentStore(engine), RampStore(engine)
    found = store.ramps()
    for each in found:
        experiment, epochs = experiments.get(each.experiment), experiments.epochs(each.experiment)
        with db.read(engine) as connection:
            checks, as_of = ramp_health.read(connection, experiment, epochs)
        store.write_health(each, checks, as_of)
    return len(found)
