"""Ramp of an experiment: a larger share of clients, step by step, while the health checks hold.

Source: docs/experiments.md, Ramp.
"""

from sqlalchemy import Engine

from abtest import health, queries
from abtest.experiment import Epoch
from abtest.store import ExperimentStore
from stream import db
from stream.errors import ConfigError

STEPS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def next_step(share: float) -> float | None:
    """Return the smallest of the usual steps above a share; None above the last one.

    >>> next_step(0.01), next_step(0.3), next_step(1.0)
    (0.05, 0.5, None)
    """
    return next((step for step in STEPS if step > share), None)


def ramp(engine: Engine, key: str, share: float | None, *, now_ts: int, reason: str, shrink: bool = False) -> Epoch:
    """Set the share of clients that take part in an experiment, and return the new epoch.

    Args:
        engine: A database with the newest schema.
        key: The experiment.
        share: Share of all clients; None takes the next of `STEPS`.
        now_ts: Start of the epoch.
        reason: Text that is stored with the epoch.
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
            facts = queries.read(connection, experiment, epochs, partial=True)
        blocked = [check for check in health.checks(experiment, epochs, facts) if check.status == "blocked"]
        if blocked:
            named = "; ".join(f"{check.check_name}: {check.detail}" for check in blocked)
            raise ConfigError(f"experiment '{key}' stays at {present:g} of all clients, as a check is blocked: {named}")
    return store.ramp(key, wanted, now_ts=now_ts, reason=reason, shrink=shrink)
