"""Lifts between looks, by an asymptotic two-sided confidence sequence: it holds at all times together.

Source: docs/experiments.md; Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2021 (arXiv 2103.06476), theorem 2.2 and
appendix B.2; Robbins 1970 (the normal mixture).
"""

import math
from dataclasses import asdict, dataclass

from abtest.estimates import Estimate
from abtest.inference import Lift, fieller, scaled_set


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitored(Lift):
    """Lift with its confidence sequence.

    Attributes:
        cs_lo: Lower root of the lift's confidence sequence.
        cs_hi: Upper root.
        cs_kind: `interval` between the roots, `outside` of them, or `line` if every lift is compatible; None without
            a test.
        cs_p: Always-valid p-value.
    """

    cs_lo: float | None = None
    cs_hi: float | None = None
    cs_kind: str | None = None
    cs_p: float | None = None


def monitored(
    control: Estimate, arm: Estimate, lift: Lift, *, alpha: float, tightest: int, covariance: float | None = None
) -> Monitored:
    """Return a lift with its confidence sequence at the present number of clients.

    Args:
        control: The control's estimate.
        arm: The arm's estimate.
        lift: Their comparison.
        alpha: Two-sided error of all times together.
        tightest: Number of clients of both arms at which the sequence is tightest, fixed before the data are seen.
        covariance: Covariance of the difference and the control's value; None is that of a plain difference.

    Raises:
        ValueError: If `alpha` is no error level, or `tightest` no number of clients.
    """
    if lift.diff is None or lift.se is None or not control.value or control.variance is None:
        return Monitored(**asdict(lift))
    n = control.n + arm.n
    q = multiplier(n, alpha, tightest)
    lo, hi, kind = _set(control, arm, diff=lift.diff, se=lift.se, covariance=covariance, q=q)
    p = p_value(lift.diff / lift.se, n, alpha, tightest)
    return Monitored(**asdict(lift), cs_lo=lo, cs_hi=hi, cs_kind=kind, cs_p=p)


def _set(
    control: Estimate, arm: Estimate, *, diff: float, se: float, covariance: float | None, q: float
) -> tuple[float | None, float | None, str]:
    """Return the roots and the kind of the lift's set within `q` standard errors."""
    if control.is_scaled and arm.is_scaled:
        return scaled_set(control, arm, q)
    variance = control.variance or 0.0
    return fieller(
        control.value or 0.0,
        diff,
        base_variance=variance,
        diff_variance=se * se,
        covariance=-variance if covariance is None else covariance,
        q=q,
    )


def multiplier(n: int, alpha: float, tightest: int) -> float:
    """Return the half-width of the sequence in standard errors.

    >>> [round(multiplier(n, 0.05, 10_000), 2) for n in (100, 10_000, 1_000_000)]
    [9.08, 3.04, 3.56]

    Args:
        n: Clients so far.
        alpha: Two-sided error of all times together.
        tightest: Number of clients at which the half-width is about the smallest.
    """
    mixed = _mixed(n, alpha, tightest)
    return math.sqrt(2.0 * (1.0 + 1.0 / mixed) * (0.5 * math.log1p(mixed) - math.log(alpha)))


def p_value(z: float, n: int, alpha: float, tightest: int) -> float:
    """Return the always-valid p-value of a standardised difference, at most 1.

    It is at most `alpha` exactly if the sequence excludes zero.
    """
    mixed = _mixed(n, alpha, tightest)
    return min(1.0, math.exp(0.5 * math.log1p(mixed) - 0.5 * z * z * (mixed / (1.0 + mixed))))


def _mixed(n: int, alpha: float, tightest: int) -> float:
    """Return n rho^2, with the rho that makes the sequence tightest at `tightest` clients; it may be tiny beside 1."""
    if not (n > 0 and tightest > 0 and 0.0 < alpha < 1.0):
        raise ValueError(
            f"n = {n}, tightest = {tightest}, alpha = {alpha}: expected numbers above 0, and a level between 0 and 1"
        )
    rho_squared = (-2.0 * math.log(alpha) + math.log(1.0 - 2.0 * math.log(alpha))) / tightest
    return n * rho_squared
