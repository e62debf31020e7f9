"""Sensitivity of a test: its power, the smallest effect that it finds, and how much its findings exaggerate.

Source: docs/experiments.md.
"""

import math

from scipy import stats
from statsmodels.stats.power import NormalIndPower

WANTED_POWER = 0.8
"""Chance of finding the lift that an experiment is sized for."""


def power(effect: float, se: float, alpha: float) -> float:
    """Return the power of a two-sided test for a true `effect` whose estimate has this standard error.

    >>> round(power(0.0022, 0.00109, 0.05), 2)
    0.52

    Raises:
        ValueError: If `se` is not above zero, or `alpha` is no error level.
    """
    _check(effect, se, alpha)
    found = NormalIndPower(ddof=0).power(effect_size=effect / se, nobs1=1, alpha=alpha, ratio=0)
    return float(found)


def smallest_effect(se: float, alpha: float) -> float:
    """Return the effect that the test finds with the wanted power, without the far tail.

    >>> round(smallest_effect(0.109, 0.05), 3)
    0.305

    Raises:
        ValueError: If `se` is not above zero, or `alpha` is no error level.
    """
    _check(0.0, se, alpha)
    return float(stats.norm.isf(alpha / 2.0) + stats.norm.isf(1.0 - WANTED_POWER)) * se


def exaggeration_ratio(effect: float, se: float, alpha: float) -> float:
    """Return the exaggeration ratio: the mean of a significant estimate over the true `effect`.

    Raises:
        ValueError: If `effect` is 0, `se` is not above zero, or `alpha` is no error level.

    Source: Gelman and Carlin 2014 (type M error), Lu, Qiu, Deng 2019 (closed form).
    """
    _check(effect, se, alpha)
    if effect == 0.0:
        raise ValueError("effect = 0: expected another number")
    z, critical = abs(effect) / se, float(stats.norm.isf(alpha / 2.0))
    density = float(stats.norm.pdf(z + critical) + stats.norm.pdf(z - critical))
    above, below = float(stats.norm.cdf(z - critical)), float(stats.norm.cdf(-z - critical))
    return (density + z * (above - below)) / (z * (above + below))


def _check(effect: float, se: float, alpha: float) -> None:
    if not (math.isfinite(effect) and 0.0 < se < math.inf and 0.0 < alpha < 1.0):
        raise ValueError(
            f"effect = {effect}, se = {se}, alpha = {alpha}: expected a number, one above 0, and one between 0 and 1"
        )
