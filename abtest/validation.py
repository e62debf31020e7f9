"""Validation of the verdict: seeded experiments with a known lift, through health checks, looks and verdicts.

Without a lift, the share of runs that end with a decided arm is the error of the verdict; the plan's alpha is what it
should be. With one, the share that ends as better is the power, which the planner forecasts from clients of the past.
The confidence sets of 95 % of the runs should hold the lift.

Source: docs/experiments.md; Kohavi, Tang, Xu 2020, chapter 19 (the A/A test).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from abtest import health, looks, standing
from abtest.buckets import allocate, check_dealt, dealt
from abtest.estimates import pair
from abtest.experiment import Arm, Epoch, Experiment
from abtest.first_exposures import FirstExposures
from abtest.inference import compare
from abtest.looks import DO_NOT_SHIP, SHIP, Look
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments
from abtest.monitoring import monitored
from abtest.plan import Plan
from abtest.planning import history_of, power_of
from abtest.queries import ArmCounts, DataRange, Facts, Sample
from abtest.strays import Strays

ARMS = (Arm(name="control", lineage="a", is_control=True), Arm(name="treatment", lineage="a"))
CLIENTS = 4_800
_ORDERS = COLUMNS.index("orders")
# Metric to the factor that raises it by the same share.
_PLANTED = {
    "ctr": "clicks",
    "aov": "amounts",
    **dict.fromkeys(("cvr", "orders_per_client", "gmv", "net_gmv", "clicked_gmv"), "orders"),
}
_PAST_PARTS, _PAST_CLIENTS = 10, 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Verdicts of experiments whose lift is known.

    Attributes:
        seed: Seed of the runs.
        primary: Primary metric.
        lift: True relative lift of the primary metric.
        weight: Share of the clients in the treatment.
        buyers: Chance of an order in a session.
        looks: Looks of the plan.
        runs: Number of experiments.
        higher: Runs in which a look found the treatment better.
        lower: Runs in which a look found it worse.
        sequence: Runs in which the confidence sequence excluded zero at any of the looks.
        without_look: Runs in which no look could be taken.
        covered: Runs whose last look has a confidence set that holds the lift.
        forecast: Power by the plan, from clients of the past; None without a lift.
    """

    seed: int
    primary: str
    lift: float
    weight: float
    buyers: float
    looks: int
    runs: int
    higher: int
    lower: int
    sequence: int
    without_look: int
    covered: int
    forecast: float | None

    @property
    def error(self) -> float:
        """Return the share of runs with a decided arm."""
        return (self.higher + self.lower) / self.runs

    @property
    def coverage(self) -> float | None:
        """Return the share of runs with a look whose confidence set holds the lift; None if there are none."""
        looked = self.runs - self.without_look
        return self.covered / looked if looked else None


def validate(
    seed: int,
    *,
    runs: int,
    num_looks: int,
    primary: str = "cvr",
    weight: float = 0.5,
    buyers: float = 0.08,
    clients: int = CLIENTS,
    lift: float = 0.0,
) -> Validation:
    """Return the verdicts of seeded experiments.

    Args:
        seed: Seed of the runs.
        runs: Number of experiments.
        num_looks: Equally spaced looks of each.
        primary: Metric that decides.
        weight: Share of the clients in the treatment.
        buyers: Chance of an order in a session.
        clients: Clients of both arms.
        lift: True relative lift of the primary metric, by more clicks, more orders or larger amounts; only 0 for the
            metrics that these do not raise.

    Raises:
        ValueError: If a value lies outside of its bounds, or an arm would have fewer than 10 buckets.
    """
    ends: list[str] = []
    wrong = without_look = covered = 0
    for name, number, least in (("runs", runs, 1), ("seed", seed, 0)):
        if number < least:
            raise ValueError(f"{name} = {number}: expected {least} or more")
    if not 0.0 < buyers < 1.0:
        raise ValueError(f"buyers = {buyers}: expected more than 0, less than 1")
    if not 0.0 <= lift <= 1.0:
        raise ValueError(f"lift = {lift}: expected 0 to 1")
    if lift and primary not in _PLANTED:
        raise ValueError(f"primary = '{primary}': a lift is planted in {', '.join(_PLANTED)} only")
    weights = (1.0 - weight, weight)
    table = allocate("validation", weights, 1.0)
    check_dealt(table, [arm.name for arm in ARMS])
    epoch = Epoch(
        number=1, start_ts=0, end_ts=None, coverage=1.0, weights=weights, dealt=dealt(table, len(ARMS)), sha256=""
    )
    for random in np.random.default_rng(seed).spawn(runs):
        plan = Plan(primary=primary, goals=(primary,), looks=num_looks, clients=clients, refund_s=0)
        taken, excluded = _run(random, plan, epoch, buyers, lift)
        wrong += excluded
        without_look += not taken
        covered += bool(taken) and _holds(taken[-1], lift)
        if taken and abs(taken[-1].z) >= (taken[-1].boundary or np.inf):
            ends.append(taken[-1].verdict)
    return Validation(
        seed=seed,
        primary=primary,
        lift=lift,
        weight=weight,
        buyers=buyers,
        looks=num_looks,
        runs=runs,
        higher=ends.count(SHIP),
        lower=ends.count(DO_NOT_SHIP),
        sequence=wrong,
        without_look=without_look,
        covered=covered,
        forecast=_forecast(
            seed, primary=primary, lift=lift, weights=weights, clients=clients, num_looks=num_looks, buyers=buyers
        )
        if lift
        else None,
    )


def _forecast(
    seed: int, *, primary: str, lift: float, weights: tuple[float, float], clients: int, num_looks: int, buyers: float
) -> float:
    """Return the power by the plan, from past clients without a lift."""
    past = Moments.empty(len(COLUMNS))
    # The variance of skewed amounts takes many clients.
    for random in np.random.default_rng([seed, 1]).spawn(_PAST_PARTS):
        past += Moments.of(client_sums(random, _PAST_CLIENTS, buyers))
    history = history_of(primary, past, days=14.0)
    return power_of(history, lift, clients=clients, weights=weights, looks=num_looks)


def _holds(look: Look, lift: float) -> bool:
    if look.set_kind == "line":
        return True
    if look.lo is None or look.hi is None:
        return False
    return (look.lo <= lift <= look.hi) == (look.set_kind == "interval")


def _run(random: np.random.Generator, plan: Plan, epoch: Epoch, buyers: float, lift: float) -> tuple[list[Look], bool]:
    experiment, epochs = experiment_of(plan), (epoch,)
    taken: list[Look] = []
    excluded = False
    for number, facts in enumerate(_growing(random, plan, epoch.weights[1], buyers, lift), start=1):
        hindrance = standing.obstacle(experiment, facts, health.checks(experiment, epochs, facts))
        if hindrance is not None:
            continue
        taken += looks.take(experiment, facts, number, taken, with_p=False)
        excluded = excluded or _sequence_excludes(plan, facts)
    return taken, excluded


def _sequence_excludes(plan: Plan, facts: Facts) -> bool:
    metric = METRICS[plan.primary or ""]
    control, treated = pair(metric, *(facts.sample(metric, arm.name).moments for arm in ARMS))
    lift = compare(control, treated)
    found = monitored(control, treated, lift, alpha=plan.alpha, tightest=plan.clients or 1)
    return found.cs_p is not None and found.cs_p < plan.alpha


def _growing(
    random: np.random.Generator, plan: Plan, weight: float, buyer_share: float, lift: float
) -> Iterator[Facts]:
    """Yield the facts at each look, as new clients arrive and are assigned by chance."""
    total = plan.clients or 0
    samples = {arm.name: sample_of(Moments.empty(len(COLUMNS)), buyers=0) for arm in ARMS}
    edges = [round(total * look / plan.looks) for look in range(plan.looks + 1)]
    for before, after in pairwise(edges):
        treated = random.random(after - before) < weight
        vectors = client_sums(random, after - before, buyer_share, _factors(plan.primary or "", lift, treated))
        for arm, members in zip(ARMS, (~treated, treated), strict=True):
            old, new = samples[arm.name], vectors[members]
            buyers = old.buyers + int((new[:, _ORDERS] > 0).sum())
            samples[arm.name] = sample_of(old.moments + Moments.of(new), buyers=buyers)
        yield facts_of(samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Factors of each client's chance of a click, chance of an order, and amounts."""

    clicks: NDArray[np.float64] | float = 1.0
    orders: NDArray[np.float64] | float = 1.0
    amounts: NDArray[np.float64] | float = 1.0


def _factors(primary: str, lift: float, treated: NDArray[np.bool_]) -> Factors:
    factor = np.where(treated, 1.0 + lift, 1.0)
    return Factors(**{_PLANTED[primary]: factor}) if lift else Factors()


def client_sums(
    random: np.random.Generator, n: int, buyers: float, factors: Factors = Factors()
) -> NDArray[np.float64]:
    """Return sums of clients with unequal habits (n, columns of `metrics.COLUMNS`).

    Clients differ in sessions and in their taste for clicks and orders; amounts are log-normal. All orders follow a
    click.
    """
    sessions = 1 + random.poisson(2.0, n)
    items = 10 * sessions
    clicks = random.binomial(items, np.minimum(random.beta(2.0, 18.0, n) * factors.clicks, 1.0))
    orders = random.binomial(sessions, np.minimum(random.beta(1.0, 1.0 / buyers - 1.0, n) * factors.orders, 1.0))
    gross = np.zeros(n)
    np.add.at(gross, np.repeat(np.arange(n), orders), np.round(random.lognormal(8.0, 1.1, int(orders.sum()))))
    gross *= factors.amounts
    refunds = np.where(random.random(n) < 0.1, gross, 0.0)
    none = np.zeros(n)
    columns = [sessions, items, clicks, orders, gross, refunds, gross - refunds, orders, gross, none, none, none]
    return np.column_stack(columns).astype(np.float64)


def experiment_of(plan: Plan, arms: tuple[Arm, ...] = ARMS) -> Experiment:
    """Return an experiment that started at time 0 and runs."""
    return Experiment(
        key="validation",
        layer="ranker",
        salt="ranker-1",
        plan=plan,
        spec_hash="",
        status="running",
        decision=None,
        created_ts=0,
        arms=arms,
    )


def sample_of(moments: Moments, *, buyers: int) -> Sample:
    """Return the clients of one arm, all first exposed in epoch 1; each order follows a click."""
    return Sample(moments=moments, by_epoch={1: moments}, buyers=buyers, clicked_buyers=buyers)


def exposed_once(arm: str, clients: int, *, epoch: int = 1, day_ts: int = 0) -> FirstExposures:
    """Return clients of one arm, epoch and day, whose windows are closed."""
    return FirstExposures(
        arm=arm,
        epoch=epoch,
        day_ts=day_ts,
        lineage=None,
        version=None,
        fell_back=False,
        assigned=clients,
        exposed=clients,
    )


def facts_of(samples: Mapping[str, Sample], *, until_ts: int = 1, end_ts: int | None = None) -> Facts:
    """Return the facts of an experiment whose clients are all mature and without strays."""
    counts = tuple(
        ArmCounts(
            arm=arm,
            exposed=sample.moments.n,
            multi_arm=0,
            analysed=sample.moments.n,
            buyers=sample.buyers,
            sessions=0,
            items=0,
            clicks=0,
            orders=0,
            gross_minor=0,
            refund_minor=0,
            clicked_orders=0,
            clicked_gross_minor=0,
            fallbacks=0,
            num_versions=1,
        )
        for arm, sample in samples.items()
    )
    found = dict(samples)
    return Facts(
        data_range=DataRange(
            watermark_ts=until_ts, matured_ts=until_ts, settled_ts=until_ts, end_ts=end_ts, first_ts=0, last_ts=until_ts
        ),
        partial=False,
        counts=counts,
        exposures=tuple(exposed_once(count.arm, count.exposed) for count in counts),
        matured=found,
        settled=found,
        strays=Strays(clients=sum(sample.moments.n for sample in samples.values())),
        stratified=False,
        reweighted=False,
        open_sessions=0,
    )
