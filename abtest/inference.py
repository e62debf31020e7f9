"""Means, ratios and their differences between two arms, computed from moments with the client as unit.

The p-value is that of the absolute difference (Welch). The interval of the lift is Fieller's, which excludes zero
exactly if that test rejects. An undefined number is None with a reason, never 0 or p = 1.

Source: docs/experiments.md; Welch 1947; Fieller 1954; Deng, Knoblich, Lu 2018 (delta method).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from statsmodels.stats.power import NormalIndPower

from abtest.moments import Moments

# Share of the smaller of two arms below which they are unequal.
_UNEQUAL = 0.4
WANTED_POWER = 0.8
"""Chance of finding the lift that an experiment is sized for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Value of an experiment metric in one arm.

    Attributes:
        n: Clients.
        value: Mean or ratio, or None if undefined.
        variance: Variance of `value`, not of the clients, or None if undefined.
        reason: Reason of an undefined number: `no_clients`, `one_client`, `zero_denominator`.
    """

    n: int
    value: float | None
    variance: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """Difference between an arm and the control.

    Attributes:
        diff: Absolute difference of the values.
        se: Its standard error.
        df: Degrees of freedom after Welch.
        p_fixed: Two-sided p-value of the fixed horizon.
        lift: `diff` relative to the size of the control's value.
        lift_se: Its standard error by the delta method.
        lo: Lower root of the lift's confidence set.
        hi: Upper root.
        set_kind: `interval` between the roots, `outside` of them, or `line` if every lift is compatible.
        reason: Reason of an undefined number.
    """

    diff: float | None = None
    se: float | None = None
    df: float | None = None
    p_fixed: float | None = None
    lift: float | None = None
    lift_se: float | None = None
    lo: float | None = None
    hi: float | None = None
    set_kind: str | None = None
    reason: str | None = None


def mean(moments: Moments, column: int) -> Estimate:
    """Return the mean of a column over clients."""
    if moments.n == 0:
        return Estimate(n=0, value=None, variance=None, reason="no_clients")
    value = float(moments.mean[column])
    covariance = moments.covariance
    if covariance is None:
        return Estimate(n=moments.n, value=value, variance=None, reason="one_client")
    return Estimate(n=moments.n, value=value, variance=float(covariance[column, column]) / moments.n)


def ratio(moments: Moments, numerator: int, denominator: int) -> Estimate:
    """Return the ratio of two columns' sums, its variance by the delta method."""
    if moments.n == 0:
        return Estimate(n=0, value=None, variance=None, reason="no_clients")
    below = float(moments.mean[denominator])
    if below == 0.0:
        return Estimate(n=moments.n, value=None, variance=None, reason="zero_denominator")
    value = float(moments.mean[numerator]) / below
    covariance = moments.covariance
    if covariance is None:
        return Estimate(n=moments.n, value=value, variance=None, reason="one_client")
    gradient_K = np.zeros(len(moments.mean))
    gradient_K[numerator], gradient_K[denominator] = 1.0 / below, -value / below
    variance = float(gradient_K @ covariance @ gradient_K) / moments.n
    return Estimate(n=moments.n, value=value, variance=max(variance, 0.0))


def with_common_spread(control: Estimate, arm: Estimate) -> tuple[Estimate, Estimate]:
    """Return both estimates with variances of one coefficient of variation of clients, pooled over the arms.

    In a small sample of skewed amounts a low mean comes with a low variance, so that a test by the arms' own variances
    finds harm too often where arms are unequal. The spread relative to the mean is shared by arms that differ by a
    factor. Values that are not both above zero keep their variances.

    >>> control = Estimate(n=901, value=10.0, variance=400 / 901)
    >>> _, arm = with_common_spread(control, Estimate(n=101, value=12.0, variance=900 / 101))
    >>> f"{arm.variance * 101 / 12.0**2:.3f}"
    '4.225'

    Source: docs/adr/0020-common-spread-of-unequal-arms.md.
    """
    values = control.value, arm.value
    if control.variance is None or arm.variance is None or values[0] is None or values[1] is None:
        return control, arm
    if min(values[0], values[1]) <= 0.0:
        return control, arm
    squares = [
        each.n * variance / value**2
        for each, variance, value in ((control, control.variance, values[0]), (arm, arm.variance, values[1]))
    ]
    spread = ((control.n - 1) * squares[0] + (arm.n - 1) * squares[1]) / (control.n + arm.n - 2)
    return (
        replace(control, variance=spread * values[0] ** 2 / control.n),
        replace(arm, variance=spread * values[1] ** 2 / arm.n),
    )


def comparable_money(control: Estimate, arm: Estimate) -> tuple[Estimate, Estimate]:
    """Return both estimates, with a common spread if the arms are further apart than 60 to 40."""
    is_unequal = min(control.n, arm.n) < _UNEQUAL * (control.n + arm.n)
    return with_common_spread(control, arm) if is_unequal else (control, arm)


def compare(control: Estimate, arm: Estimate, alpha: float = 0.05) -> Lift:
    """Return the test of `arm` against `control` and the lift with its confidence set.

    >>> control = Estimate(n=2000, value=1.50, variance=14**2 / 2000)
    >>> found = compare(control, Estimate(n=2000, value=2.75, variance=24**2 / 2000))
    >>> f"{found.p_fixed:.4f} {found.df:.1f} {found.lift:+.1%} {found.lo:+.1%} {found.hi:+.0%} {found.set_kind}"
    '0.0443 3218.3 +83.3% +1.8% +239% interval'
    """
    if control.value is None or arm.value is None:
        return Lift(reason=control.reason or arm.reason)
    diff = arm.value - control.value
    if control.variance is None or arm.variance is None:
        shift = diff / abs(control.value) if control.value != 0.0 else None
        return Lift(diff=diff, lift=shift, reason=control.reason or arm.reason)
    return lift_of(
        diff,
        variances=(control.variance, arm.variance),
        clients=(control.n, arm.n),
        base=control.value,
        base_variance=control.variance,
        covariance=-control.variance,
        alpha=alpha,
    )


def lift_of(
    diff: float,
    *,
    variances: tuple[float, float],
    clients: tuple[int, int],
    base: float,
    base_variance: float,
    covariance: float,
    alpha: float,
) -> Lift:
    """Return the test of a difference and its size relative to a base.

    Args:
        diff: Difference of the arm's value to the control's.
        variances: Variances of the two values, the control's first.
        clients: Clients of the two arms.
        base: Value that the lift is relative to: the control's, not adjusted.
        base_variance: Variance of `base`.
        covariance: Covariance of `diff` and `base`.
        alpha: Two-sided error level.
    """
    shift = diff / abs(base) if base != 0.0 else None
    variance = sum(variances)
    if variance == 0.0:
        return Lift(diff=diff, lift=shift, reason="zero_variance")
    se = math.sqrt(variance)
    share = variances[0] / variance
    df = 1.0 / (share**2 / (clients[0] - 1) + (1.0 - share) ** 2 / (clients[1] - 1))
    p = 2.0 * float(stats.t.sf(abs(diff / se), df))
    if shift is None:
        return Lift(diff=diff, se=se, df=df, p_fixed=p, reason="zero_control")
    lo, hi, kind = fieller(base, diff, base_variance, variance, covariance, quantile(alpha, df))
    ratio = diff / base
    lift_se = math.sqrt(max(0.0, variance - 2.0 * ratio * covariance + ratio**2 * base_variance)) / abs(base)
    return Lift(diff=diff, se=se, df=df, p_fixed=p, lift=shift, lift_se=lift_se, lo=lo, hi=hi, set_kind=kind)


def quantile(alpha: float, df: float) -> float:
    """Return the two-sided quantile of Student's t."""
    return float(stats.t.isf(alpha / 2.0, df))


def fieller(
    base: float, diff: float, base_variance: float, diff_variance: float, covariance: float, q: float
) -> tuple[float | None, float | None, str]:
    """Return the roots and the kind of Fieller's set for `diff / |base|`.

    Args:
        base: The control's value, not zero.
        diff: The difference.
        base_variance: Variance of `base`.
        diff_variance: Variance of `diff`.
        covariance: Covariance of `diff` and `base`.
        q: Quantile of the test that the set belongs to.
    """
    a = base**2 - q**2 * base_variance
    b = diff * base - q**2 * covariance
    e = diff**2 - q**2 * diff_variance
    inside = b**2 - a * e
    if a == 0.0 or inside < 0.0:
        return None, None, "line"
    # The root without cancellation comes first; the other follows from their product e / a.
    far = b + math.copysign(math.sqrt(inside), b)
    roots = (far / a, e / far if far != 0.0 else 0.0)
    sign = math.copysign(1.0, base)
    lo, hi = sorted(root * sign for root in roots)
    return lo, hi, "interval" if a > 0.0 else "outside"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for the whole family by Holm.

    The function of statsmodels runs the garbage collector, which takes as long as a whole report.

    >>> [round(p, 3) for p in holm([0.043, 0.121, 0.668])]
    [0.129, 0.242, 0.668]
    """
    p_N = np.array(p_values, dtype=np.float64)
    order_N = np.argsort(p_N, kind="stable")
    adjusted_N = np.empty_like(p_N)
    adjusted_N[order_N] = np.minimum(np.maximum.accumulate(p_N[order_N] * np.arange(len(p_N), 0, -1)), 1.0)
    return [float(p) for p in adjusted_N]


def power(effect: float, se: float, alpha: float) -> float:
    """Return the power of a two-sided test for a true `effect` whose estimate has this standard error.

    >>> round(power(0.0022, 0.00109, 0.05), 2)
    0.52
    """
    found = NormalIndPower(ddof=0).power(effect_size=effect / se, nobs1=1, alpha=alpha, ratio=0)
    return float(found)


def smallest_effect(se: float, alpha: float, wanted: float = WANTED_POWER) -> float:
    """Return the effect that the test finds with power `wanted`, without the far tail.

    >>> round(smallest_effect(0.109, 0.05), 3)
    0.305
    """
    return float(stats.norm.isf(alpha / 2.0) + stats.norm.isf(1.0 - wanted)) * se


def exaggeration_ratio(effect: float, se: float, alpha: float) -> float:
    """Return the exaggeration ratio: the mean of a significant estimate over the true `effect`.

    Source: Gelman and Carlin 2014 (type M error), Lu, Qiu, Deng 2019 (closed form).
    """
    z, critical = abs(effect) / se, float(stats.norm.isf(alpha / 2.0))
    density = float(stats.norm.pdf(z + critical) + stats.norm.pdf(z - critical))
    above, below = float(stats.norm.cdf(z - critical)), float(stats.norm.cdf(-z - critical))
    return (density + z * (above - below)) / (z * (above + below))
