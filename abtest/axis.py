"""Axis of a chart with round ticks.

Source: Heckbert 1990, "Nice Numbers for Graph Labels", Graphics Gems.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Axis from `low` to `high`, of which positions are percent from 0 to 100."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, number: float) -> float:
        """Return the position of a number; beyond the axis it is at its end."""
        share = (number - self.low) / (self.high - self.low)
        return round(100.0 * min(1.0, max(0.0, share)), 2)

    def holds(self, number: float) -> bool:
        """Return whether the axis reaches as far as the number."""
        return self.low <= number <= self.high


def axis(low: float, high: float, *, most: int = 6) -> Axis:
    """Return the shortest axis that holds both ends and begins and ends at a round tick.

    >>> axis(-0.013, 0.174).ticks
    (-0.05, 0.0, 0.05, 0.1, 0.15, 0.2)
    >>> axis(3.0, 3.0).ticks
    (2.0, 2.5, 3.0, 3.5, 4.0)

    Args:
        low: Smallest number to show.
        high: Largest number to show.
        most: Largest number of ticks, 3 or more.
    """
    if high <= low:
        margin = 1.0 if low == 0.0 else abs(low) / 3.0
        low, high = low - margin, high + margin
    step = _step((high - low) / (most - 1))
    while math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9) + 1 > most:
        step = _step(step * 1.01)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{number * step:.12g}") for number in range(first, last + 1))
    return Axis(low=ticks[0], high=ticks[-1], ticks=ticks)


def _step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= least * (1.0 - 1e-9))
