"""Plan of a ramp: the shares that an experiment takes one after the other, and what comes next, as pure functions.

Source: docs/experiments.md, Ramp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from abtest.experiment import Arm
from abtest.results import Check
from stream.errors import ConfigError

STEPS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
_PASSED = ("ok", "alert")


def next_step(share: float, steps: Sequence[float] = STEPS) -> float | None:
    """Return the smallest of the steps above a share; None above the last one.

    >>> next_step(0.01), next_step(0.3), next_step(0.3, (0.1, 0.2))
    (0.05, 0.5, None)
    """
    return next((step for step in steps if step > share), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RampPlan:
    """Shares of all clients that an experiment takes one after the other.

    Attributes:
        steps: The shares, in ascending order. What the last one leaves is never dealt.
        every_ms: Milliseconds that each share lasts at least.
    """

    steps: tuple[float, ...] = STEPS
    every_ms: int

    def __post_init__(self) -> None:
        shown = ", ".join(f"{step:g}" for step in self.steps)
        if not self.steps or not all(0.0 < step <= 1.0 for step in self.steps):
            raise ConfigError(f"steps = {shown}: expected shares above 0, at most 1")
        if list(self.steps) != sorted(set(self.steps)):
            raise ConfigError(f"steps = {shown}: expected each share above the one before")
        if self.every_ms <= 0:
            raise ConfigError(f"every = {self.every_ms} ms: expected more than 0")

    @property
    def left_out(self) -> float:
        """The share of clients that is never dealt, beside the hold-out of the layer.

        >>> RampPlan(steps=(0.1, 0.9), every_ms=1).left_out
        0.1
        """
        return round(1.0 - self.steps[-1], 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """A planned ramp of a running experiment, as it stands in the database.

    Attributes:
        experiment: Key of the experiment.
        plan: Its plan.
        row_version: Count of the writes to its row; each step compares it.
        arms: Arms of the experiment.
        share: Share of all clients that take part.
        epoch: Number of the open epoch.
        start_ts: Start of that epoch, epoch milliseconds.
        checks: Health checks as of `as_of`; empty before the first look of this epoch.
        as_of: Watermark of the data that the checks were computed from.
        held: Causes that freeze the ramp, as the controller last recorded them; empty if none does.
        held_since: Time since which it is frozen by these causes.
    """

    experiment: str
    plan: RampPlan
    row_version: int
    arms: tuple[Arm, ...]
    share: float
    epoch: int
    start_ts: int
    checks: tuple[Check, ...] = ()
    as_of: int | None = None
    held: Mapping[str, str] = field(default_factory=dict)
    held_since: int | None = None

    @property
    def next_share(self) -> float | None:
        """The share of the next step; None after the last one."""
        return next_step(self.share, self.plan.steps)

    @property
    def due_ts(self) -> int:
        """Earliest time of the next step, epoch milliseconds."""
        return self.start_ts + self.plan.every_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The next act of a ramp: a step, a freeze or a wait.

    Attributes:
        share: Share that the experiment takes now; None if it stays.
        held: Causes that freeze the ramp.
        reason: Why it stays or goes on, for people.
    """

    share: float | None = None
    held: Mapping[str, str] = field(default_factory=dict)
    reason: str


def decide(ramp: Ramp, lineages: Mapping[str, str], now_ts: int) -> Decision:
    """Return what a ramp does now. A missing or undefined check waits; it never lets the share grow.

    Args:
        ramp: The ramp.
        lineages: Lineage of an arm to the reason why it does not serve by its rules.
        now_ts: Epoch milliseconds.
    """
    held = {check.check_name: check.detail for check in ramp.checks if check.status == "blocked"}
    held |= {f"lineage {name}": reason for name, reason in lineages.items()}
    wanted = ramp.next_share
    if wanted is None:
        return Decision(reason="all steps are done")
    if held:
        return Decision(held=held, reason="frozen by " + "; ".join(f"{name}: {why}" for name, why in held.items()))
    if now_ts < ramp.due_ts:
        return Decision(reason="the present share has not lasted long enough")
    if not ramp.checks or ramp.as_of is None or ramp.as_of < ramp.due_ts:
        return Decision(
            reason="waits for checks of the data until the step is due, which `shelfwise abtest watch` makes"
        )
    undefined = [check for check in ramp.checks if check.status not in _PASSED]
    if undefined:
        return Decision(reason="waits for " + "; ".join(f"{check.check_name}: {check.detail}" for check in undefined))
    return Decision(share=wanted, reason="all checks passed")
