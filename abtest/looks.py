"""Looks of an experiment and the verdict that each ends in, as pure functions.

A look is a decision of the owner. It spends a part of the error level on the primary metric of each arm that has no
verdict yet. With several arms, each is decided at its share of the level (Bonferroni).

Source: docs/experiments.md; Lan and DeMets 1983; Jennison and Turnbull 2000, chapter 7 and section 3.8 (t-tests by
their significance levels).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from abtest import group_sequential, inference
from abtest.declared import declared
from abtest.experiment import Experiment
from abtest.group_sequential import Path
from abtest.inference import Lift
from abtest.metrics import METRICS
from abtest.queries import Facts
from abtest.strata import compared
from stream.schemas.times import DAY_MS

SHIP, DO_NOT_SHIP, KEEP_RUNNING, INVALID = "ship", "do not ship", "keep running", "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Look at the primary metric of one arm; the fields are columns of the table `looks`.

    Attributes:
        number: Number of the look, from 1.
        as_of: Watermark of the data.
        fraction: Share of the plan that was done; 1 or more at the last look.
        information: 1 / variance of the difference.
        alpha: Two-sided error level of this arm.
        spent: Error spent up to this look, itself included.
        boundary: |z| at which the arm is decided; None if the look has nothing to spend.
        z: Difference in standard errors, by the p-value of its t-test.
        p: Smallest error level of the whole experiment at which this look would decide; None after weights changed.
        lift: Relative difference, with its set at the level of the boundary.
        is_last: Whether no look at this arm follows.
        reason: Reason of the verdict.
    """

    arm: str
    number: int
    as_of: int
    metric: str
    fraction: float
    information: float
    alpha: float
    spent: float
    boundary: float | None
    z: float
    p: float | None
    n: int
    n_control: int
    mean: float | None
    mean_control: float | None
    diff: float | None
    se: float | None
    lift: float | None
    lo: float | None
    hi: float | None
    set_kind: str | None
    is_last: bool
    verdict: str
    reason: str


def take(experiment: Experiment, facts: Facts, as_of: int, taken: Sequence[Look], *, with_p: bool = True) -> list[Look]:
    """Return the looks at all arms that have no verdict yet.

    The facts must allow a look: `standing.obstacle` says so. There are none at a watermark that had its looks.

    Args:
        experiment: The experiment.
        facts: Its facts.
        as_of: Their watermark.
        taken: Its earlier looks.
        with_p: Whether to compute the p-value, which repeats all looks at many levels.
    """
    found = []
    for arm in experiment.arms:
        earlier = [look for look in taken if look.arm == arm.name]
        if arm.is_control or (earlier and (earlier[-1].is_last or earlier[-1].as_of >= as_of)):
            continue
        look = _look(experiment, facts, as_of, arm.name, earlier, with_p=with_p)
        if look is not None:
            found.append(look)
    return found


def fraction(experiment: Experiment, facts: Facts) -> float:
    """Return the share of the plan that is done; 1 for a plan without an end, and after the end of the data."""
    plan = experiment.plan
    metric = METRICS[plan.primary or ""]
    if facts.is_complete(metric):
        return max(1.0, _planned_fraction(experiment, facts))
    return _planned_fraction(experiment, facts)


def _planned_fraction(experiment: Experiment, facts: Facts) -> float:
    plan = experiment.plan
    metric = METRICS[plan.primary or ""]
    if plan.clients is not None:
        return sum(facts.sample(metric, arm.name).moments.n for arm in experiment.arms) / plan.clients
    if plan.days is not None:
        until_ts = facts.until_ts(metric)
        return max(0, (until_ts or 0) - experiment.created_ts) / (plan.days * DAY_MS)
    return 1.0


def _look(
    experiment: Experiment, facts: Facts, as_of: int, arm: str, earlier: Sequence[Look], *, with_p: bool
) -> Look | None:
    plan = experiment.plan
    metric = METRICS[plan.primary or ""]
    control, treated = compared(facts, metric, experiment.control.name, arm)

    def compare_at(alpha: float) -> Lift:
        return declared(facts, plan, metric, experiment.control.name, arm, alpha=alpha)

    tested = compare_at(plan.alpha)
    if tested.se is None or tested.diff is None or tested.p_fixed is None:
        return None
    alpha = plan.alpha / (len(experiment.arms) - 1)
    before = earlier[-1] if earlier else None
    done = max(fraction(experiment, facts), before.fraction if before else 0.0)
    # The estimate of the variance grows by chance, so that the information of a later look can be the smaller one.
    least = before.information * group_sequential.MIN_GROWTH if before else 0.0
    information = max(1.0 / tested.se**2, least)
    total = max(group_sequential.spent(alpha, done), before.spent if before else 0.0)
    if facts.reweighted:
        # The weights of past epochs change, so that estimates of looks are not correlated as the recursion assumes; by
        # Bonferroni a look may use what it spends, for any correlation.
        boundary = group_sequential.z_of(total - (before.spent if before else 0.0))
    else:
        boundary = path_after(earlier).boundary(information, total)
    z = _z(tested)
    # An interval at the level of the boundary excludes zero exactly if z crosses it.
    shown = _at_level(compare_at, tested, group_sequential.level(boundary))
    history = [(look.information, look.fraction) for look in earlier] + [(information, done)]
    has_p = with_p and not (facts.reweighted and earlier)
    p = group_sequential.p_value(z, *zip(*history, strict=True)) if has_p else None
    decides = abs(z) >= boundary
    is_last = decides or done >= 1.0
    verdict = (SHIP if tested.diff > 0.0 else DO_NOT_SHIP) if decides else DO_NOT_SHIP if is_last else KEEP_RUNNING
    return Look(
        arm=arm,
        number=len(earlier) + 1,
        as_of=as_of,
        metric=metric.name,
        fraction=done,
        information=information,
        alpha=alpha,
        spent=total,
        boundary=boundary if math.isfinite(boundary) else None,
        z=z,
        p=None if p is None else min(1.0, p * (len(experiment.arms) - 1)),
        n=treated.n,
        n_control=control.n,
        mean=treated.value,
        mean_control=control.value,
        diff=tested.diff,
        se=tested.se,
        lift=shown.lift,
        lo=shown.lo,
        hi=shown.hi,
        set_kind=shown.set_kind,
        is_last=is_last,
        verdict=verdict,
        reason=_reason(
            metric.title + (" by CUPED" if plan.cuped_days else ""), shown, decides=decides, is_last=is_last
        ),
    )


def _at_level(compare_at: Callable[[float], Lift], tested: Lift, level: float) -> Lift:
    if level > 0.0 and tested.df is not None and math.isfinite(inference.quantile(level, tested.df)):
        return compare_at(level)
    return replace(tested, lo=None, hi=None, set_kind="line")


def path_after(looks: Sequence[Look]) -> Path:
    """Return the paths that have crossed no boundary at these looks."""
    return _path(
        tuple((look.information, math.inf if look.boundary is None else look.boundary, look.spent) for look in looks)
    )


@lru_cache(maxsize=64)
def _path(passed: tuple[tuple[float, float, float], ...]) -> Path:
    return _path(passed[:-1]).passed(*passed[-1]) if passed else Path()


def _z(tested: Lift) -> float:
    t = (tested.diff or 0.0) / (tested.se or math.inf)
    size = group_sequential.z_of(tested.p_fixed or 0.0)
    return math.copysign(size if math.isfinite(size) else abs(t), t)


def _reason(title: str, lift: Lift, *, decides: bool, is_last: bool) -> str:
    if decides:
        return f"{title} is {'higher' if (lift.diff or 0.0) > 0.0 else 'lower'}{_excluded(lift)}"
    if is_last:
        return f"{title}: no evidence of a change at the last look{_excluded(lift)}"
    return f"{title}: the boundary of this look is not reached{_excluded(lift)}"


def _excluded(lift: Lift) -> str:
    if lift.set_kind != "interval" or lift.lo is None or lift.hi is None:
        return ""
    return f"; lifts outside {lift.lo:+.2%} to {lift.hi:+.2%} are excluded"
