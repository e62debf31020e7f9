"""Group-sequential looks: the error spent up to each look, its boundary, and the p-value that belongs to it.

The error is spent by a function of the O'Brien-Fleming type, so that looks at unplanned times keep the total. The
estimate's sum is a Brownian motion in information, and the density of the paths that crossed no earlier boundary is
carried from look to look by numerical integration.

Source: docs/experiments.md; Lan and DeMets 1983 and 1989; Armitage, McPherson, Rowe 1969; Jennison and Turnbull 2000,
chapters 7, 9 and 19.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

# A path further out than this has no weight in double precision.
_WIDEST_Z = 10.0
# The step of a look blurs the density by its standard deviation, so a panel of that many of them is smooth.
_SDS_OF_PANEL = 2.0
_SMALLEST_LOG_P = -690.0
MIN_GROWTH = 1.001
"""Least factor by which the information of a look exceeds that of the look before: the integration needs nodes in
proportion to the root of the inverse of the growth."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


def spent(alpha: float, fraction: float) -> float:
    """Return the two-sided error that may be spent up to this fraction of the plan.

    >>> [round(spent(0.05, fraction), 5) for fraction in (0.2, 0.6, 1.0, 1.3)]
    [0.0, 0.00762, 0.05, 0.05]

    Args:
        alpha: Two-sided error of all looks together.
        fraction: Share of the plan that is done; 1 or more spends everything.

    Raises:
        ValueError: If `alpha` is no error level, or `fraction` no number.

    Source: Lan and DeMets 1983, the function of the O'Brien-Fleming type, at alpha / 2 on each side.
    """
    if not 0.0 < alpha <= 1.0 or math.isnan(fraction):
        raise ValueError(f"alpha = {alpha}, fraction = {fraction}: expected a level above 0, at most 1, and a number")
    if fraction <= 0.0:
        return 0.0
    if fraction >= 1.0:
        return alpha
    return min(alpha, float(4.0 * stats.norm.sf(stats.norm.isf(alpha / 4.0) / math.sqrt(fraction))))


def level(boundary: float) -> float:
    """Return the two-sided p-value of one test on the boundary."""
    return float(2.0 * stats.norm.sf(boundary))


def z_of(p: float) -> float:
    """Return the |z| with this two-sided p-value; infinity for a p that has underflowed.

    >>> round(z_of(0.05), 3), z_of(1.0)
    (1.96, 0.0)
    """
    return float(stats.norm.isf(p / 2.0))


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Density of the paths that have crossed no boundary so far.

    Attributes:
        information: Information of the newest look; 0 before the first.
        spent: Error spent so far.
        sums: Nodes of the integration (G,): the estimate times its information.
        masses: Density at the nodes times their weights (G,).
    """

    information: float = 0.0
    spent: float = 0.0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    masses: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))

    def boundary(self, information: float, total: float) -> float:
        """Return the z that |z| of the next look must reach; infinity if it has nothing to spend.

        Args:
            information: Information of the next look, 1 / variance of the estimate.
            total: Error spent up to that look, itself included.

        Raises:
            ValueError: If the information does not grow, or the error spent is no probability.
        """
        step_sd = self._step_sd(information)
        if not 0.0 <= total <= 1.0:
            raise ValueError(f"total = {total}: expected 0 to 1")
        budget = total - self.spent
        if budget <= 0.0:
            return math.inf
        scale = math.sqrt(information)

        def log_excess(z: float) -> float:
            tail = 2.0 * float(self.masses @ special.ndtr((self.sums - z * scale) / step_sd))
            return math.log(max(tail, 1e-320) / budget)

        # Without earlier boundaries the tail would be larger, so the boundary lies below this one.
        widest = float(stats.norm.isf(budget / 2.0)) + 1e-6
        if log_excess(widest) >= 0.0:
            return widest
        if log_excess(0.0) <= 0.0:
            return 0.0
        return float(optimize.brentq(log_excess, 0.0, widest, xtol=1e-10))

    def passed(self, information: float, boundary: float, total: float) -> Self:
        """Return the paths after a look that ended within its boundary; what was spent stays spent.

        Raises:
            ValueError: If the information does not grow.
        """
        step_sd = self._step_sd(information)
        edge = min(boundary, _WIDEST_Z) * math.sqrt(information)
        num_panels = max(2, math.ceil(2.0 * edge / (_SDS_OF_PANEL * step_sd)))
        half = edge / num_panels
        centres = np.linspace(-edge + half, edge - half, num_panels)
        sums = (centres[:, None] + half * _NODES).ravel()
        weights = np.tile(half * _WEIGHTS, num_panels)
        steps = (sums[:, None] - self.sums) / step_sd
        density = np.exp(-0.5 * steps**2) @ self.masses / (step_sd * math.sqrt(2.0 * math.pi))
        return type(self)(information, max(total, self.spent), sums, weights * density)

    def _step_sd(self, information: float) -> float:
        if not self.information * MIN_GROWTH <= information < math.inf or information == 0.0:
            raise ValueError(
                f"information = {information}: expected at least {MIN_GROWTH:g} times the {self.information:g} of the"
                " look before, and more than 0"
            )
        return math.sqrt(information - self.information)


def boundaries(information: Sequence[float], totals: Sequence[float]) -> list[float]:
    """Return the boundary of each look.

    >>> fractions = [0.5, 1.0]
    >>> [round(z, 3) for z in boundaries(fractions, [spent(0.05, fraction) for fraction in fractions])]
    [2.963, 1.969]

    Args:
        information: Information of each look, in any unit.
        totals: Error spent up to each look.

    Raises:
        ValueError: If the information does not grow, or an error spent is no probability.
    """
    path, found = Path(), []
    for now, total in zip(information, totals, strict=True):
        found.append(path.boundary(now, total))
        path = path.passed(now, found[-1], total)
    return found


def p_value(z: float, information: Sequence[float], fractions: Sequence[float]) -> float:
    """Return the p-value of the newest look: the smallest total error at which its |z| crosses the boundary.

    Args:
        z: Statistic of the newest look.
        information: Information of each look, the newest last.
        fractions: Share of the plan at each look; 1 or more spends everything.

    Raises:
        ValueError: If `z` is no number, or the information does not grow.

    Source: Jennison and Turnbull 2000, section 9.5 (repeated p-values).
    """

    def excess(log_alpha: float) -> float:
        alpha = math.exp(log_alpha)
        newest = boundaries(information, [spent(alpha, fraction) for fraction in fractions])[-1]
        return min(newest, 1e3) - abs(z)

    if math.isnan(z):
        raise ValueError(f"z = {z}: expected a number")
    if excess(0.0) >= 0.0:
        return 1.0
    if excess(_SMALLEST_LOG_P) <= 0.0:
        return math.exp(_SMALLEST_LOG_P)
    return math.exp(float(optimize.brentq(excess, _SMALLEST_LOG_P, 0.0, xtol=1e-7)))
