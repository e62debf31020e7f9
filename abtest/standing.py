"""Standing of an experiment: what prevents a look, the verdict of each arm so far, and what is left to wait for.

Source: docs/experiments.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from abtest.experiment import Experiment
from abtest.looks import DO_NOT_SHIP, INVALID, KEEP_RUNNING, SHIP, Look, fraction
from abtest.metrics import METRICS, Metric
from abtest.queries import Facts
from abtest.results import ArmVerdict, Check
from stream.schemas.times import DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Reason why no look can be taken; `verdict` is `keep running` if time helps, else `invalid`."""

    verdict: str
    reason: str


def obstacle(experiment: Experiment, facts: Facts, checks: Sequence[Check]) -> Obstacle | None:
    """Return what prevents a look at an experiment, or None."""
    blocked = [check.check_name for check in checks if check.status == "blocked"]
    if experiment.plan.primary is None:
        return Obstacle(verdict=INVALID, reason="no primary metric was declared")
    if blocked:
        return Obstacle(verdict=INVALID, reason=f"{' and '.join(blocked)} failed: the arms cannot be compared")
    metric = METRICS[experiment.plan.primary]
    windows = "refund windows" if metric.waits_for_refunds else "attribution windows"
    complete = facts.is_complete(metric)
    num_clients = _num_clients(experiment, facts, metric)
    if facts.partial or (facts.data_range.end_ts is not None and not complete) or (not num_clients and not complete):
        return Obstacle(verdict=KEEP_RUNNING, reason=f"{windows} are still open")
    buyers, wanted = _fewest_buyers(experiment, facts, metric), experiment.plan.min_buyers
    if buyers < wanted:
        reason = f"too few buyers: {buyers} of at least {wanted} in the smallest arm"
        return Obstacle(verdict=INVALID if complete else KEEP_RUNNING, reason=reason)
    return None


def arm_verdicts(
    experiment: Experiment, facts: Facts, looks: Sequence[Look], hindrance: Obstacle | None
) -> tuple[ArmVerdict, ...]:
    """Return the verdict of each arm but the control: that of its last look, or else the present standing."""
    return tuple(
        _arm_verdict(experiment, facts, arm.name, [look for look in looks if look.arm == arm.name], hindrance)
        for arm in experiment.arms
        if not arm.is_control
    )


def overall(verdicts: Sequence[ArmVerdict]) -> tuple[str, str]:
    """Return the verdict of the experiment and its reason; each arm but the control has a verdict of its own."""
    found = {entry.verdict for entry in verdicts}
    verdict = next(kind for kind in (INVALID, KEEP_RUNNING, SHIP, DO_NOT_SHIP) if kind in found)
    reasons = {entry.reason for entry in verdicts}
    if len(verdicts) == 1 or (len(found) == 1 and len(reasons) == 1):
        return verdict, verdicts[0].reason
    return verdict, "; ".join(f"{entry.arm}: {entry.verdict} ({entry.reason})" for entry in verdicts)


def _arm_verdict(
    experiment: Experiment, facts: Facts, arm: str, looks: Sequence[Look], hindrance: Obstacle | None
) -> ArmVerdict:
    newest = looks[-1] if looks else None
    if newest is not None and newest.is_last:
        return ArmVerdict(arm=arm, verdict=newest.verdict, reason=newest.reason, is_last=True)
    if hindrance is not None:
        return ArmVerdict(arm=arm, verdict=hindrance.verdict, reason=hindrance.reason)
    if fraction(experiment, facts) >= 1.0:
        return ArmVerdict(arm=arm, verdict=KEEP_RUNNING, reason="the last look is due")
    reason = newest.reason if newest is not None else "no look has been taken"
    return ArmVerdict(arm=arm, verdict=KEEP_RUNNING, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Time and clients that an experiment without a verdict waits for.

    Attributes:
        until_ts: Time at which the plan's last look is due at the present rate of clients; None if unknown.
        more_clients: Clients that are missing; None if unknown.
    """

    until_ts: int | None
    more_clients: int | None


def outlook(experiment: Experiment, facts: Facts) -> Outlook:
    """Return the time and the number of clients until the last look of the plan and enough buyers."""
    plan = experiment.plan
    metric = METRICS[plan.primary or "cvr"]
    windows_ms = 1_000 * (plan.attribution_s + (plan.refund_s if metric.waits_for_refunds else 0))
    if facts.data_range.end_ts is not None:
        return Outlook(until_ts=facts.data_range.end_ts + windows_ms, more_clients=0)
    num_clients = _num_clients(experiment, facts, metric)
    reached_ts = facts.until_ts(metric)
    elapsed_ms = max(0, (reached_ts or 0) - experiment.created_ts)
    rate = num_clients / elapsed_ms if elapsed_ms else 0.0
    missing: list[float] = []
    times: list[float] = []
    buyers = _fewest_buyers(experiment, facts, metric)
    if buyers < plan.min_buyers:
        missing.append(num_clients * (plan.min_buyers / buyers - 1.0) if buyers else math.inf)
    if plan.clients is not None:
        missing.append(max(0, plan.clients - num_clients))
    if plan.days is not None:
        end_ts = experiment.created_ts + plan.days * DAY_MS
        times.append(end_ts + windows_ms)
        if rate:
            missing.append(max(0.0, end_ts - experiment.created_ts - elapsed_ms) * rate)
    most = max(missing, default=math.inf)
    if rate and reached_ts is not None and math.isfinite(most):
        times.append(reached_ts + most / rate + windows_ms)
    return Outlook(
        until_ts=math.ceil(max(times)) if times else None, more_clients=math.ceil(most) if math.isfinite(most) else None
    )


def _num_clients(experiment: Experiment, facts: Facts, metric: Metric) -> int:
    return sum(facts.sample(metric, arm.name).moments.n for arm in experiment.arms)


def _fewest_buyers(experiment: Experiment, facts: Facts, metric: Metric) -> int:
    return min(facts.sample(metric, arm.name).buyers_of(metric) for arm in experiment.arms)
