"""Plan of an experiment from history: the clients that a lift needs, at the spread that clients had.

Source: docs/experiments.md, Planning; Jennison and Turnbull 2000, chapter 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from sqlalchemy import Connection, Engine, func, select

from abtest import group_sequential
from abtest.client_vectors import history_vectors
from abtest.estimates import estimate
from abtest.experiment import are_unequal
from abtest.fact_writer import progress
from abtest.metrics import METRICS
from abtest.moments import Moments
from abtest.plan import MAX_LOOKS
from abtest.sensitivity import WANTED_POWER
from abtest.tables import session_facts
from stream import db
from stream.errors import ConfigError
from stream.schemas.times import DAY_MS

MIN_CLIENTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Clients of some past days, of all experiments and of none.

    Attributes:
        metric: Experiment metric.
        days: Length of the time.
        clients: Clients with a mature session in that time.
        value: Value of the metric.
        client_variance: Variance of `value` for one client: that of the metric, times the clients.
    """

    metric: str
    days: float
    clients: int
    value: float
    client_variance: float


def baseline(engine: Engine, metric: str, days: float, *, currency: str | None = None) -> Baseline:
    """Return the clients of the last days whose windows are closed.

    Args:
        engine: A database with the newest schema.
        metric: Experiment metric.
        days: Days before the newest mature session.
        currency: Currency whose amounts are added up; None adds all.

    Raises:
        ConfigError: If there is no such metric, or too little history for a plan.
        StoreError: If the database is unreachable or refused.
    """
    if metric not in METRICS:
        raise ConfigError(f"primary = '{metric}': expected one of {', '.join(METRICS)}")
    if not 0.0 < days < 3_650.0:
        raise ConfigError(f"days = {days}: expected more than 0, less than 3650")
    with db.read(engine) as connection:
        until_ts = _newest_ts(connection)
        if until_ts is None:
            raise ConfigError("there is no history: the sink has written no mature session")
        vectors = history_vectors(
            connection, from_ts=until_ts - round(days * DAY_MS), until_ts=until_ts, currency=currency
        )
    if len(vectors) < MIN_CLIENTS:
        raise ConfigError(
            f"the last {days:g} days have {len(vectors)} clients with a mature session, expected {MIN_CLIENTS} or more"
        )
    return history_of(metric, Moments.of(vectors), days=days)


def history_of(metric: str, moments: Moments, *, days: float) -> Baseline:
    """Return the clients of some past days by their moments.

    Raises:
        ConfigError: If the metric is zero, or the same for all clients.
    """
    found = estimate(METRICS[metric], moments)
    if not found.value or not found.variance:
        raise ConfigError(f"the last {days:g} days have no {METRICS[metric].title} that differs between clients")
    return Baseline(
        metric=metric,
        days=days,
        clients=found.n,
        value=found.value,
        client_variance=found.variance * found.n,
    )


def clients_needed(
    history: Baseline,
    mde: float,
    *,
    alpha: float = 0.05,
    weights: Sequence[float] = (0.5, 0.5),
    control: int = 0,
    looks: int = 1,
    power: float = WANTED_POWER,
) -> int:
    """Return the clients of all arms together by which a lift is found with the wanted power.

    Clients are assumed to be as in the history, over a time of the same length. The variance of a rate grows with the
    rate, as that of a count does; amounts keep theirs, and compare by their ratio in unequal arms. Several looks count
    by the boundary of the last one, which gives slightly too many clients.

    >>> history = Baseline(metric="cvr", days=14, clients=9_000, value=0.05, client_variance=0.0475)
    >>> clients_needed(history, 0.1), clients_needed(history, 0.1, weights=(0.9, 0.1))
    (62635, 180612)

    Args:
        history: Clients of the past.
        mde: Relative lift.
        alpha: Two-sided error level of all arms and looks.
        weights: Share of each arm; an arm of share zero is not compared.
        control: Number of the control arm.
        looks: Equally spaced looks.
        power: Chance of finding the lift in the weakest arm.

    Raises:
        ConfigError: If a value is refused.
    """
    _check(history, mde, alpha, looks)
    if not alpha / 2.0 < power < 1.0:
        raise ConfigError(f"power = {power}: expected more than alpha / 2, less than 1")
    if not 0 <= control < len(weights) or not all(0.0 <= weight < math.inf for weight in weights):
        raise ConfigError(f"control = {control}, weights = {list(weights)}: expected the number of an arm, and shares")
    arms = [weight for number, weight in enumerate(weights) if number != control and weight > 0.0]
    if not arms or weights[control] <= 0.0:
        raise ConfigError(f"weights = {list(weights)}: expected a control and another arm above 0")
    drift = last_boundary(alpha / len(arms), looks) + group_sequential.z_of(2.0 * (1.0 - power))
    return math.ceil((drift / _drift(history, mde, weights[control], min(arms))) ** 2)


def power_of(
    history: Baseline, mde: float, *, clients: int, weights: tuple[float, float], alpha: float = 0.05, looks: int = 1
) -> float:
    """Return the chance of finding a lift with so many clients of a control and one arm; see `clients_needed`.

    >>> history = Baseline(metric="cvr", days=14, clients=9_000, value=0.05, client_variance=0.0475)
    >>> round(power_of(history, 0.1, clients=62_635, weights=(0.5, 0.5)), 4)
    0.8

    Raises:
        ConfigError: If a value is refused.
    """
    _check(history, mde, alpha, looks)
    if not (clients > 0 and min(weights) > 0.0 and max(weights) < math.inf):
        raise ConfigError(f"clients = {clients}, weights = {list(weights)}: expected numbers above 0")
    return NormalDist().cdf(_drift(history, mde, *weights) * math.sqrt(clients) - last_boundary(alpha, looks))


def _check(history: Baseline, mde: float, alpha: float, looks: int) -> None:
    """Refuse what no number of clients follows from."""
    if not 0.0 < mde < 10.0:
        raise ConfigError(f"mde = {mde}: expected a relative lift above 0, such as 0.02 for 2 %")
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha = {alpha}: expected more than 0, less than 1")
    if not 1 <= looks <= MAX_LOOKS:
        raise ConfigError(f"looks = {looks}: expected 1 to {MAX_LOOKS}")
    if not (0.0 < abs(history.value) < math.inf and 0.0 < history.client_variance < math.inf):
        raise ConfigError(
            f"value = {history.value}, client_variance = {history.client_variance}: expected a history in which"
            " clients differ"
        )


def _drift(history: Baseline, mde: float, control: float, arm: float) -> float:
    """Return the lift in standard errors of one client of all arms, by the shares of two arms."""
    spread = math.sqrt(history.client_variance) / abs(history.value)
    if not METRICS[history.metric].is_money:
        return mde / (spread * math.sqrt(1.0 / control + (1.0 + mde) / arm))
    # As `estimates.comparable` has them.
    effect = math.log1p(mde) if are_unequal(control, arm) else mde
    return effect / (spread * math.sqrt(1.0 / control + 1.0 / arm))


def last_boundary(alpha: float, looks: int) -> float:
    """Return the z of the last of equally spaced looks.

    >>> round(last_boundary(0.05, 1), 3), round(last_boundary(0.05, 5), 3)
    (1.96, 2.031)
    """
    path, boundary = group_sequential.Path(), math.inf
    for look in range(1, looks + 1):
        total = group_sequential.spent(alpha, look / looks)
        boundary = path.boundary(float(look), total)
        if look < looks:
            path = path.passed(float(look), boundary, total)
    return boundary


def _newest_ts(connection: Connection) -> int | None:
    """Return the impression time of the newest mature session."""
    _, matured = progress(connection)
    if matured is None:
        return None
    newest = connection.execute(
        select(func.max(session_facts.c.impression_ts)).where(session_facts.c.impression_ts <= matured)
    ).scalar_one()
    return None if newest is None else int(newest)
