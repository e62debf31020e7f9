"""Comparison of two arms by their estimates: the test of the difference, and the lift with its confidence set.

The p-value is that of the absolute difference (Welch). The interval of the lift is Fieller's, which excludes zero
exactly if that test rejects. Skewed amounts in unequal arms are compared by the logarithm of their ratio instead. An
undefined number is None with a reason, never 0 or p = 1.

Source: docs/experiments.md; Welch 1947; Fieller 1954; Hedges, Gurevitch, Curtis 1999 (log ratio of means).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from abtest.estimates import Estimate

Floats: TypeAlias = NDArray[np.float64]
_KINDS = ("interval", "outside", "line")
_LINE = _KINDS.index("line")
# Exponents of ends that are too far out for a number.
_WIDEST_LOG = 700.0


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


def compare(control: Estimate, arm: Estimate, alpha: float = 0.05) -> Lift:
    """Return the test of `arm` against `control` and the lift with its confidence set.

    >>> control = Estimate(n=2000, value=1.50, variance=14**2 / 2000)
    >>> found = compare(control, Estimate(n=2000, value=2.75, variance=24**2 / 2000))
    >>> f"{found.p_fixed:.4f} {found.df:.1f} {found.lift:+.1%} {found.lo:+.1%} {found.hi:+.0%} {found.set_kind}"
    '0.0443 3218.3 +83.3% +1.8% +239% interval'

    Raises:
        ValueError: If `alpha` is no error level.
    """
    return compare_all([(control, arm)], alpha)[0]


def compare_all(pairs: Sequence[tuple[Estimate, Estimate]], alpha: float = 0.05) -> list[Lift]:
    """Return the comparison of each pair of control and arm, all by one pass over arrays; see `compare`."""
    found = [Lift()] * len(pairs)
    tested: list[int] = []
    rows: list[tuple[float, float, float, float, float, float]] = []
    for number, (control, arm) in enumerate(pairs):
        flaw = _flaw(control) or _flaw(arm)
        if control.value is None or arm.value is None or flaw is not None:
            found[number] = Lift(reason=flaw)
        elif control.variance is None or arm.variance is None:
            diff = arm.value - control.value
            shift = diff / abs(control.value) if control.value != 0.0 else math.inf
            relative = shift if math.isfinite(shift) else None
            found[number] = Lift(diff=diff, lift=relative, reason=control.reason or arm.reason or "no_variance")
        else:
            tested.append(number)
            rows.append((control.value, arm.value, control.variance, arm.variance, control.degrees, arm.degrees))
    base_N, value_N, control_N, arm_N, *degrees = np.array(rows, dtype=np.float64).reshape(-1, 6).T
    lifts = lifts_of(
        value_N - base_N,
        variances=(control_N, arm_N),
        degrees=(degrees[0], degrees[1]),
        base_N=base_N,
        base_variance_N=control_N,
        covariance_N=-control_N,
        alpha=alpha,
    )
    for number, lift in zip(tested, lifts, strict=True):
        control, arm = pairs[number]
        found[number] = _scaled(control, arm, lift, alpha) if control.is_scaled and arm.is_scaled else lift
    return found


def _flaw(found: Estimate) -> str | None:
    """Return the reason why an estimate has no value that means anything, or None."""
    value, variance = found.value, found.variance
    if value is None:
        return found.reason or "not_finite"
    if not math.isfinite(value if variance is None else value + variance):
        return "not_finite"
    if variance is None:
        return None
    if variance < 0.0:
        return "impossible_moments"
    if found.n < 1:
        return "no_clients"
    return None if found.degrees > 0.0 else "one_client"


def log_ratio(control: Estimate, arm: Estimate) -> tuple[float, float]:
    """Return the logarithm of the arm's value relative to the control's, and its standard error by the delta method.

    Args:
        control: The control's estimate, with a value above zero and a variance.
        arm: The same of the arm.
    """
    values = control.value or 0.0, arm.value or 0.0
    relative = sum((each.variance or 0.0) / value / value for each, value in zip((control, arm), values, strict=True))
    return math.log(values[1] / values[0]), math.sqrt(relative)


def scaled_set(control: Estimate, arm: Estimate, q: float) -> tuple[float | None, float | None, str]:
    """Return the set of the lift within `q` standard errors of the log ratio, as `fieller` does; a line is too wide."""
    ratio_log, se = log_ratio(control, arm)
    ends = ratio_log - q * se, ratio_log + q * se
    if not abs(ends[0]) + abs(ends[1]) < _WIDEST_LOG:
        return None, None, _KINDS[_LINE]
    return math.expm1(ends[0]), math.expm1(ends[1]), _KINDS[0]


def _scaled(control: Estimate, arm: Estimate, plain: Lift, alpha: float) -> Lift:
    """Return the comparison by the log ratio; the error of the difference is the one that gives the same test."""
    ratio_log, log_se = log_ratio(control, arm)
    if plain.df is None or plain.lift is None or plain.diff is None or log_se == 0.0:
        return plain
    lo, hi, kind = scaled_set(control, arm, quantile(alpha, plain.df))
    # The logarithmic mean of the values, which lies between them.
    scale = plain.diff / ratio_log if ratio_log else control.value or 0.0
    return replace(
        plain,
        se=scale * log_se,
        p_fixed=2.0 * float(special.stdtr(plain.df, -abs(ratio_log / log_se))),
        lift_se=(1.0 + plain.lift) * log_se,
        lo=lo,
        hi=hi,
        set_kind=kind,
    )


def lifts_of(
    diff_N: Floats,
    *,
    variances: tuple[Floats, Floats],
    degrees: tuple[Floats, Floats],
    base_N: Floats,
    base_variance_N: Floats,
    covariance_N: Floats,
    alpha: float,
) -> list[Lift]:
    """Return the tests of N differences and their sizes relative to their bases.

    Args:
        diff_N: Differences of the arm's value to the control's.
        variances: Variances of the two values, the control's first.
        degrees: Degrees of freedom of the two variances.
        base_N: Values that the lifts are relative to: the control's, not adjusted.
        base_variance_N: Variances of `base_N`.
        covariance_N: Covariances of `diff_N` and `base_N`.
        alpha: Two-sided error level.

    Raises:
        ValueError: If `alpha` is no error level.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha = {alpha}: expected more than 0, less than 1")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance_N = variances[0] + variances[1]
        se_N = np.sqrt(variance_N)
        share_N = variances[0] / variance_N
        df_N = 1.0 / (share_N**2 / degrees[0] + (1.0 - share_N) ** 2 / degrees[1])
        p_N = 2.0 * special.stdtr(df_N, -np.abs(diff_N / se_N))
        shift_N = diff_N / np.abs(base_N)
        q_N: Floats = -special.stdtrit(df_N, np.full_like(df_N, alpha / 2.0))
        lo_N, hi_N, kind_N = fieller_sets(
            base_N,
            diff_N,
            base_variance_N=base_variance_N,
            diff_variance_N=variance_N,
            covariance_N=covariance_N,
            q_N=q_N,
        )
        ratio_N, scale_N = diff_N / base_N, np.abs(base_N)
        lift_variance_N = (
            variance_N / scale_N / scale_N
            - 2.0 * ratio_N * (covariance_N / scale_N / scale_N)
            + ratio_N**2 * (base_variance_N / scale_N / scale_N)
        )
        lift_se_N = np.sqrt(np.maximum(0.0, lift_variance_N))
    columns = (base_N, diff_N, variance_N, se_N, df_N, p_N, shift_N, lift_se_N, lo_N, hi_N, kind_N)
    return [_lift(_Numbers(*row)) for row in zip(*(column.tolist() for column in columns), strict=True)]


class _Numbers(NamedTuple):
    """The numbers of one comparison, defined or not."""

    base: float
    diff: float
    variance: float
    se: float
    df: float
    p: float
    shift: float
    lift_se: float
    lo: float
    hi: float
    kind: int


def _lift(found: _Numbers) -> Lift:
    """Return one comparison, in which no number stands where none is defined."""
    base, diff, variance, se, df, p, shift, lift_se, lo, hi, kind = found
    if not (math.isfinite(diff) and math.isfinite(variance) and variance >= 0.0):
        return Lift(reason="not_finite" if not variance < 0.0 else "impossible_moments")
    has_lift = base != 0.0 and math.isfinite(shift)
    if variance == 0.0:
        return Lift(diff=diff, lift=shift if has_lift else None, reason="zero_variance")
    if not (has_lift and math.isfinite(lift_se)):
        return Lift(diff=diff, se=se, df=df, p_fixed=p, reason="zero_control")
    if kind == _LINE:
        return Lift(diff=diff, se=se, df=df, p_fixed=p, lift=shift, lift_se=lift_se, set_kind=_KINDS[kind])
    return Lift(diff=diff, se=se, df=df, p_fixed=p, lift=shift, lift_se=lift_se, lo=lo, hi=hi, set_kind=_KINDS[kind])


def lift_of(
    diff: float,
    *,
    variances: tuple[float, float],
    degrees: tuple[float, float],
    base: float,
    base_variance: float,
    covariance: float,
    alpha: float,
) -> Lift:
    """Return `lifts_of` of one difference."""
    (found,) = lifts_of(
        np.array([diff]),
        variances=(np.array([variances[0]]), np.array([variances[1]])),
        degrees=(np.array([degrees[0]]), np.array([degrees[1]])),
        base_N=np.array([base]),
        base_variance_N=np.array([base_variance]),
        covariance_N=np.array([covariance]),
        alpha=alpha,
    )
    return found


def quantile(alpha: float, df: float) -> float:
    """Return the two-sided quantile of Student's t."""
    return -float(special.stdtrit(df, alpha / 2.0))


def fieller_sets(
    base_N: Floats,
    diff_N: Floats,
    *,
    base_variance_N: Floats,
    diff_variance_N: Floats,
    covariance_N: Floats,
    q_N: Floats,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return the roots and the kinds of Fieller's sets for `diff_N / |base_N|`; a line has no roots.

    Args:
        base_N: Values of the control, not zero.
        diff_N: Differences.
        base_variance_N: Variances of `base_N`.
        diff_variance_N: Variances of `diff_N`.
        covariance_N: Covariances of `diff_N` and `base_N`.
        q_N: Quantiles of the tests that the sets belong to.

    Shapes: kinds (N,), indices of `interval`, `outside` and `line`.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # Relative to the base, so that squares of large and of small amounts have digits.
        scale_N = np.abs(base_N)
        sign_N, shift_N = np.copysign(1.0, base_N), diff_N / scale_N
        a_N = 1.0 - q_N**2 * (base_variance_N / scale_N / scale_N)
        b_N = sign_N * shift_N - q_N**2 * (covariance_N / scale_N / scale_N)
        e_N = shift_N**2 - q_N**2 * (diff_variance_N / scale_N / scale_N)
        inside_N = b_N**2 - a_N * e_N
        # The root without cancellation comes first; the other follows from their product e / a.
        far_N = b_N + np.copysign(np.sqrt(inside_N), b_N)
        first_N, second_N = sign_N * far_N / a_N, sign_N * np.where(far_N != 0.0, e_N / far_N, 0.0)
    has_roots_N = (a_N != 0.0) & (inside_N >= 0.0) & np.isfinite(first_N) & np.isfinite(second_N)
    kind_N = np.where(has_roots_N, np.where(a_N > 0.0, 0, 1), _LINE)
    return np.minimum(first_N, second_N), np.maximum(first_N, second_N), kind_N


def fieller(
    base: float, diff: float, *, base_variance: float, diff_variance: float, covariance: float, q: float
) -> tuple[float | None, float | None, str]:
    """Return the roots and the kind of one of `fieller_sets`."""
    (lo,), (hi,), (kind,) = fieller_sets(
        np.array([base]),
        np.array([diff]),
        base_variance_N=np.array([base_variance]),
        diff_variance_N=np.array([diff_variance]),
        covariance_N=np.array([covariance]),
        q_N=np.array([q]),
    )
    return (None, None, _KINDS[_LINE]) if kind == _LINE else (float(lo), float(hi), _KINDS[kind])
