"""Plan of an experiment, fixed when the experiment is created.

Source: docs/experiments.md.
"""

from dataclasses import dataclass

from abtest.metrics import METRICS
from stream.errors import ConfigError
from stream.join.settings import JoinSettings
from stream.schemas.money import is_code
from stream.schemas.times import DAY_S

GOALS = ("ctr", "cvr", "gmv")
MAX_LOOKS = 1_000
"""Looks of a plan: with more, equally spaced, the information would grow too little for the boundaries' integration."""
_JOIN = JoinSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Declared plan of an experiment.

    Attributes:
        primary: Experiment metric that decides; None gives no verdict.
        goals: Experiment metrics whose p-values are adjusted together; the primary is one of them.
        alpha: Two-sided error level of all looks and arms together.
        mde: Relative lift that the experiment is sized for, or None.
        looks: Declared number of looks. More than one needs a planned number of clients or days.
        clients: Planned number of analysed clients, all arms together, at which the last look is due.
        days: Planned duration, at the end of which the last look is due.
        min_buyers: Clients with an order that the smallest arm needs before a look; 0 needs none.
        cuped_days: Days before each client's first exposure by which looks adjust the primary metric (CUPED); None
            adjusts nothing.
        hold_out: Share of the clients of the layer that no experiment of it takes; None has that of the experiment
            before in the layer.
        currency: Currency of all sums of money; None takes the most frequent one in the facts.
        attribution_s: Attribution window of the join, after which a session's labels are complete.
        refund_s: Refund window of the join, which money after refunds waits for besides.
    """

    primary: str | None = "cvr"
    goals: tuple[str, ...] = GOALS
    alpha: float = 0.05
    mde: float | None = None
    looks: int = 1
    clients: int | None = None
    days: float | None = None
    min_buyers: int = 100
    cuped_days: float | None = None
    hold_out: float | None = None
    currency: str | None = None
    attribution_s: int = _JOIN.attribution_s
    refund_s: int = _JOIN.refund_s

    def __post_init__(self) -> None:
        for field, names in (("primary", () if self.primary is None else (self.primary,)), ("goals", self.goals)):
            for name in names:
                if name not in METRICS or not METRICS[name].can_decide:
                    expected = ", ".join(metric.name for metric in METRICS.values() if metric.can_decide)
                    raise ConfigError(f"{field} = '{name}': expected one of {expected}")
        if self.primary is not None and self.primary not in self.goals:
            raise ConfigError(f"primary = '{self.primary}': expected one of the goals {', '.join(self.goals)}")
        if not 0.0 < self.alpha < 0.5:
            raise ConfigError(f"alpha = {self.alpha}: expected more than 0, less than 0.5")
        if self.mde is not None and not 0.0 < self.mde < 10.0:
            raise ConfigError(f"mde = {self.mde}: expected a relative lift above 0, such as 0.02 for 2 %")
        if not 1 <= self.looks <= MAX_LOOKS:
            raise ConfigError(f"looks = {self.looks}: expected 1 to {MAX_LOOKS}")
        if self.clients is not None and self.days is not None:
            raise ConfigError(f"clients = {self.clients}, days = {self.days}: the last look has one date, give one")
        if self.clients is not None and self.clients < 2:
            raise ConfigError(f"clients = {self.clients}: expected 2 or more")
        if self.days is not None and not 0.0 < self.days < 3_650.0:
            raise ConfigError(f"days = {self.days}: expected more than 0, less than 3650")
        least_days = self.attribution_s / DAY_S
        if self.cuped_days is not None and not least_days < self.cuped_days <= 365.0:
            raise ConfigError(
                f"cuped_days = {self.cuped_days}: expected more than the attribution window ({least_days:g} d), at "
                "most 365"
            )
        if self.hold_out is not None and not 0.0 <= self.hold_out < 1.0:
            raise ConfigError(f"hold_out = {self.hold_out}: expected 0 or more, less than 1")
        if self.looks > 1 and self.clients is None and self.days is None:
            raise ConfigError(f"looks = {self.looks}: several looks need a planned number of clients or days")
        for field, number in (
            ("min_buyers", self.min_buyers),
            ("attribution_s", self.attribution_s),
            ("refund_s", self.refund_s),
        ):
            if number < 0:
                raise ConfigError(f"{field} = {number}: expected 0 or more")
        if self.currency is not None and not is_code(self.currency):
            raise ConfigError(f"currency = '{self.currency}': expected three capital letters of ISO 4217")
