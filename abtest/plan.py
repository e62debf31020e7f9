"""Plan of an experiment, fixed when the experiment is created.

Source: docs/experiments.md.
"""

import re
from dataclasses import dataclass

from abtest.metrics import METRICS
from stream.errors import ConfigError

GOALS = ("ctr", "cvr", "gmv")
_CURRENCY = re.compile("[A-Z]{3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Declared plan of an experiment.

    Attributes:
        primary: Experiment metric that decides; None gives no verdict.
        goals: Experiment metrics whose p-values are adjusted together; the primary is one of them.
        alpha: Two-sided error level.
        mde: Relative lift that the experiment is sized for, or None.
        looks: Declared number of looks.
        currency: Currency of all sums of money; None takes the only one in the facts.
    """

    primary: str | None = "cvr"
    goals: tuple[str, ...] = GOALS
    alpha: float = 0.05
    mde: float | None = None
    looks: int = 1
    currency: str | None = None

    def __post_init__(self) -> None:
        for field, names in (("goals", self.goals), ("primary", (self.primary,) if self.primary else ())):
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
        if self.looks < 1:
            raise ConfigError(f"looks = {self.looks}: expected 1 or more")
        if self.currency is not None and not _CURRENCY.fullmatch(self.currency):
            raise ConfigError(f"currency = '{self.currency}': expected three capital letters of ISO 4217")
