"""What a report holds: health checks, results, counts and the verdict, as plain records.

Source: EXPERIMENTS.md 8.
"""

import math
from dataclasses import dataclass

from abtest.inference import Lift
from abtest.plan import Plan
from abtest.queries import ArmCounts
from abtest.store import Arm, Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One health check: `ok`, `alert`, `blocked` or `undefined`; a blocked one refuses the verdict."""

    check_name: str
    stat: float | None
    p: float | None
    status: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Lift):
    """Experiment metric of one arm against the control; a control's result has a mean and no lift.

    The fields are columns of the table `results`, `sentence` apart.

    Attributes:
        method: `mean` or `ratio`.
        n: Clients of the arm.
        n_control: Clients of the control.
        mean: The arm's mean or ratio; money in minor units.
        mean_control: The same of the control.
        p_adj: p adjusted by Holm over all goals and arms; None outside of that family.
        mde: Relative lift that would have been found with 80 % power.
        power: Chance to find the planned lift; None without one.
        exaggeration: Exaggeration ratio (type-M error) of a significant result if the planned lift is true.
        verdict: Decision about the primary metric of this arm; None for other experiment metrics.
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
    exaggeration: float | None = None
    verdict: str | None = None
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that is shown about an experiment.

    Attributes:
        as_of: Data watermark, epoch milliseconds; 0 while nothing is known.
        matured_ts: Sessions up to here have closed attribution windows.
        partial: Sessions with open windows count too: labels are still arriving, no verdict is given.
        verdict: `win`, `loss`, `inconclusive` or `refused`.
        verdict_reason: Why it is refused, or what decided.
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
    currency: str | None
    counts: tuple[ArmCounts, ...]
    checks: tuple[Check, ...]
    results: tuple[Result, ...]
    verdict: str
    verdict_reason: str
    caveats: tuple[str, ...]

    @property
    def blocked(self) -> bool:
        """Whether a health check refuses the verdict."""
        return any(check.status == "blocked" for check in self.checks)

    @property
    def control(self) -> str:
        """Name of the control arm."""
        return next(arm.name for arm in self.arms if arm.is_control)

    def result(self, metric: str, arm: str) -> Result:
        """Return the result of one metric and arm."""
        return next(entry for entry in self.results if entry.metric == metric and entry.arm == arm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """Log lifts: GMV per client = sessions per client x orders per session x money per order."""

    arm: str
    gmv: float
    sessions: float
    cvr: float
    aov: float


def decomposition(found: Report) -> tuple[Decomposition, ...]:
    """Return by how much each factor moved GMV, in log points that add up; arms without all factors are left out."""
    parts: list[Decomposition] = []
    for arm in (entry.name for entry in found.arms if not entry.is_control):
        logs = [_log_lift(found.result(name, arm)) for name in ("gmv", "sessions_per_client", "cvr", "aov")]
        gmv, sessions, cvr, aov = logs
        if gmv is not None and sessions is not None and cvr is not None and aov is not None:
            parts.append(Decomposition(arm=arm, gmv=gmv, sessions=sessions, cvr=cvr, aov=aov))
    return tuple(parts)


def _log_lift(entry: Result) -> float | None:
    if not entry.mean or not entry.mean_control:
        return None
    return math.log(entry.mean / entry.mean_control)
