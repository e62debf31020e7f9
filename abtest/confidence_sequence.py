"""A one-sided confidence sequence: a bound that holds at all looks together, for decisions taken while data come in.

Source: Howard, Ramdas, McAuliffe, Sekhon 2021, Time-uniform, nonparametric, nonasymptotic confidence sequences, section
3.2 (one-sided normal mixture); Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, Time-uniform central limit theory.
"""

import math


def radius(se: float, n: float, *, alpha: float, tuned_at: float) -> float:
    """Return how far below (or above) an estimate its one-sided bound lies.

    With chance 1 - `alpha` the truth is above `estimate - radius` at every n; the limit theorem needs tens of
    observations and an estimate of the standard error that holds.

    Args:
        se: Standard error of the estimate at present.
        n: Observations that it rests on.
        alpha: Chance that the bound is ever wrong.
        tuned_at: Number of observations at which the bound is tightest.

    >>> round(radius(1.0, 2_000, alpha=0.01, tuned_at=2_000), 2)
    3.36
    """
    if not (se >= 0 and n > 0 and tuned_at > 0 and 0.0 < alpha < 0.5):
        raise ValueError(f"se = {se}, n = {n}, alpha = {alpha}, tuned_at = {tuned_at}: expected positive numbers")
    level = 2.0 * math.log(1.0 / (2.0 * alpha))
    rho = tuned_at / (level + math.log(1.0 + level))
    boundary = math.sqrt(2.0 * (n + rho) * math.log1p(math.sqrt((n + rho) / rho) / (2.0 * alpha)))
    return se * boundary / math.sqrt(n)
