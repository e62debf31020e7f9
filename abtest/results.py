"""Records of a report: health checks, results, counts, looks and verdicts.

Source: docs/experiments.md.
"""

import math
from dataclasses import dataclass
from typing import Literal

from abtest.experiment import Arm, Epoch
from abtest.looks import Look
from abtest.monitoring import Monitored
from abtest.plan import Plan
from abtest.queries import ArmCounts
from abtest.timeline import EMPTY as EMPTY_TIMELINE
from abtest.timeline import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Health check with status `ok`, `alert`, `blocked` or `undefined`; a blocked one prevents every look."""

    check_name: str
    stat: float | None
    p: float | None
    status: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Monitored):
    """Experiment metric of one arm against the control; a control's result has a mean and no lift.

    The fields are columns of the table `results`, `sentence` apart; those of `AdjustedResult` are beside them.

    Attributes:
        method: `mean` or `ratio`.
        n: Clients of the arm.
        n_control: Clients of the control.
        mean: The arm's mean or ratio; money in minor units.
        mean_control: The same of the control.
        p_adj: p adjusted by Holm over all goals and arms; None outside of that family.
        mde: Smallest relative lift that is found with 80 % power.
        power: Power against the planned lift; None without a planned lift.
        exaggeration_ratio: Type-M error of a significant result if the planned lift is true.
        verdict: Verdict of this arm, at the primary metric; None for other experiment metrics.
        sentence: The numbers in words.
    """

    metric: str
    arm: str
    method: str
    n: int
    n_control: int
    mean: float | None
    mean_control: float | None
    p_adj: float | None = None
    mde: float | None = None
    power: float | None = None
    exaggeration_ratio: float | None = None
    verdict: str | None = None
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedResult(Monitored):
    """Experiment metric of one arm against the control, adjusted by the time before the first exposure (CUPED).

    Attributes:
        mean: The arm's adjusted mean or ratio.
        mean_control: The same of the control.
        theta: Weight of the earlier metric.
        variance_ratio: Variance of the adjusted difference over that of the plain one.
    """

    metric: str
    arm: str
    mean: float
    mean_control: float
    theta: float
    variance_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmVerdict:
    """Verdict of one arm: `ship`, `do not ship`, `keep running` or `invalid`; `is_last` if it never changes."""

    arm: str
    verdict: str
    reason: str
    is_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Report of an experiment.

    Attributes:
        as_of: Watermark of the data, in epoch milliseconds; 0 without data.
        matured_ts: Newest impression time whose attribution window is closed.
        partial: Whether sessions with open windows count; their labels still arrive, so no look can be taken.
        complete: Whether the experiment has stopped and all windows of its primary metric are closed.
        verdict: Verdict of the experiment: `ship`, `do not ship`, `keep running` or `invalid`.
        verdict_reason: Reason of the verdict.
        verdicts: Verdict of each arm but the control.
        until_ts: Time until which an experiment without a verdict should run; None if unknown or decided.
        more_clients: Clients that it needs until then; None if unknown or decided.
        looks: Looks so far, the oldest first.
        stratified: Whether values are means of epochs, because the shares of the arms differ between them.
        adjusted: Results by CUPED, which looks test where the plan declares it.
        schema_version: Version of the JSON schema of reports.
        timeline: Clients by day, and lifts as reports have stored them.
    """

    experiment: str
    layer: str
    status: str
    spec_hash: str
    plan: Plan
    arms: tuple[Arm, ...]
    epochs: tuple[Epoch, ...]
    as_of: int
    matured_ts: int | None
    partial: bool
    complete: bool
    currency: str | None
    counts: tuple[ArmCounts, ...]
    checks: tuple[Check, ...]
    results: tuple[Result, ...]
    verdict: str
    verdict_reason: str
    verdicts: tuple[ArmVerdict, ...]
    until_ts: int | None
    more_clients: int | None
    looks: tuple[Look, ...]
    stratified: bool
    caveats: tuple[str, ...]
    adjusted: tuple[AdjustedResult, ...] = ()
    timeline: Timeline = EMPTY_TIMELINE
    schema_version: Literal[1] = 1

    @property
    def blocked(self) -> bool:
        """Return whether a health check prevents every look."""
        return any(check.status == "blocked" for check in self.checks)

    @property
    def control(self) -> str:
        """Return the name of the control arm."""
        return next(arm.name for arm in self.arms if arm.is_control)

    def result(self, metric: str, arm: str) -> Result:
        """Return the result of one experiment metric in one arm."""
        return next(entry for entry in self.results if entry.metric == metric and entry.arm == arm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """Log lifts of GMV per client and its factors: sessions per client, orders per session, money per order."""

    arm: str
    gmv: float
    sessions: float
    orders: float
    aov: float


def decomposition(found: Report) -> tuple[Decomposition, ...]:
    """Return the log lift of GMV and of its factors, which add up, for each arm in which all are defined."""
    parts: list[Decomposition] = []
    for arm in (entry.name for entry in found.arms if not entry.is_control):
        logs = [
            _log_lift(found.result(name, arm)) for name in ("gmv", "sessions_per_client", "orders_per_client", "aov")
        ]
        gmv, sessions, orders, aov = logs
        if gmv is not None and sessions is not None and orders is not None and aov is not None:
            parts.append(Decomposition(arm=arm, gmv=gmv, sessions=sessions, orders=orders - sessions, aov=aov))
    return tuple(parts)


def _log_lift(entry: Result) -> float | None:
    if not entry.mean or not entry.mean_control:
        return None
    quotient = entry.mean / entry.mean_control
    return math.log(quotient) if 0.0 < quotient < math.inf else None
