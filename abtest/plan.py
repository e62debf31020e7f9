"""What an experiment is to decide, fixed when it is created.

Source: EXPERIMENTS.md 1, 3.9 and 6.
"""

import re
from dataclasses import dataclass

from abtest.metrics import METRICS
from stream.errors import ConfigError

GOALS = ("ctr", "cvr", "gmv")
_CURRENCY = re.compile("[A-Z]{3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The declared decision.

    Attributes:
        primary: The one metric that decides; None means that no verdict is given.
        goals: Metrics whose p-values are adjusted together, with the primary among them.
        alpha: Two-sided error level.
        mde: The relative lift the experiment was sized for; None if it was not.
        looks: Declared number of looks.
        currency: The only currency that money is counted in; None takes the only one there is.
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
