"""Estimates of an experiment metric in one arm, from moments with the client as unit.

An undefined number is None with a reason.

Source: docs/experiments.md; Deng, Knoblich, Lu 2018 (delta method).
"""

import math
from dataclasses import dataclass
from functools import cache

from msgspec import Struct
from msgspec.structs import replace

from abtest.experiment import are_unequal
from abtest.metrics import COLUMNS, Metric
from abtest.moments import Moments


class Estimate(Struct, frozen=True, kw_only=True):
    """Value of an experiment metric in one arm.

    Attributes:
        n: Clients.
        value: Mean or ratio, or None if undefined.
        variance: Variance of `value`, not of the clients, or None if undefined.
        reason: Reason of an undefined number: `no_clients`, `one_client`, `zero_denominator`, `few_clients_by_epoch`,
            `no_variance`, `not_finite`, or `impossible_moments`, which no clients can have.
        df: Degrees of freedom of `variance`; None is `n` - 1.
        is_scaled: Whether values, all above zero, compare by their ratio and not by their difference.
    """

    n: int
    value: float | None
    variance: float | None
    reason: str | None = None
    df: float | None = None
    is_scaled: bool = False

    @property
    def degrees(self) -> float:
        """Return the degrees of freedom of the variance."""
        return self.n - 1 if self.df is None else self.df


@dataclass(frozen=True, slots=True)
class Quotient:
    """Columns of a metric: a ratio of two sums, or a mean over clients without a denominator."""

    numerator: int
    denominator: int | None = None


def columns_of(metric: Metric) -> Quotient:
    """Return the columns of an experiment metric."""
    return _quotient(metric.numerator, metric.denominator)


@cache
def _quotient(numerator: str, denominator: str | None) -> Quotient:
    return Quotient(COLUMNS.index(numerator), None if denominator is None else COLUMNS.index(denominator))


def estimate(metric: Metric, moments: Moments) -> Estimate:
    """Return the value of a metric and its variance, with the client as unit."""
    return of_quotient(columns_of(metric), moments)


def of_quotient(quotient: Quotient, moments: Moments) -> Estimate:
    """Return the mean or the ratio of columns."""
    if quotient.denominator is None:
        return mean(moments, quotient.numerator)
    return ratio(moments, quotient.numerator, quotient.denominator)


def mean(moments: Moments, column: int) -> Estimate:
    """Return the mean of a column over clients."""
    if moments.n == 0:
        return Estimate(n=0, value=None, variance=None, reason="no_clients")
    spread, reason = moments.spread((column, 1.0))
    if reason is not None:
        return Estimate(n=moments.n, value=None, variance=None, reason=reason)
    value = moments.mean.item(column)
    if moments.n == 1:
        return Estimate(n=1, value=value, variance=None, reason="one_client")
    return Estimate(n=moments.n, value=value, variance=spread / (moments.n - 1) / moments.n)


def ratio(moments: Moments, numerator: int, denominator: int) -> Estimate:
    """Return the ratio of two columns' sums, its variance by the delta method."""
    n = moments.n
    if n == 0:
        return Estimate(n=0, value=None, variance=None, reason="no_clients")
    below = moments.mean.item(denominator)
    if below == 0.0:
        return Estimate(n=n, value=None, variance=None, reason="zero_denominator")
    value = moments.mean.item(numerator) / below
    spread, reason = moments.spread((numerator, 1.0 / below), (denominator, -value / below))
    if reason is not None:
        return Estimate(n=n, value=None, variance=None, reason=reason)
    if n == 1:
        return Estimate(n=n, value=value, variance=None, reason="one_client")
    return Estimate(n=n, value=value, variance=spread / (n - 1) / n)


def with_common_spread(control: Estimate, arm: Estimate) -> tuple[Estimate, Estimate]:
    """Return both estimates with variances of one coefficient of variation of clients, pooled over the arms.

    In a small sample of skewed amounts a low mean comes with a low variance, so that a test by the arms' own variances
    finds harm too often where arms are unequal. The spread relative to the mean is shared by arms that differ by a
    factor, and the logarithm of their ratio has about equal tails. Values that are not both above zero stay as they
    are.

    >>> control = Estimate(n=901, value=10.0, variance=400 / 901)
    >>> _, arm = with_common_spread(control, Estimate(n=101, value=12.0, variance=900 / 101))
    >>> f"{arm.variance * 101 / 12.0**2:.3f}"
    '4.225'

    Source: docs/adr/0020-common-spread-of-unequal-arms.md; docs/adr/0023-log-ratio-of-unequal-arms.md.
    """
    values = control.value, arm.value
    if control.variance is None or arm.variance is None or values[0] is None or values[1] is None:
        return control, arm
    if min(control.n, arm.n) < 2 or not min(control.variance, arm.variance) >= 0.0:
        return control, arm
    if min(values[0], values[1]) <= 0.0 or not 0.0 < values[1] / values[0] < math.inf:
        return control, arm
    squares = [
        each.n * (variance / value / value)
        for each, variance, value in ((control, control.variance, values[0]), (arm, arm.variance, values[1]))
    ]
    spread = ((control.n - 1) * squares[0] + (arm.n - 1) * squares[1]) / (control.n + arm.n - 2)
    return (
        replace(control, variance=spread * values[0] * values[0] / control.n, is_scaled=True),
        replace(arm, variance=spread * values[1] * values[1] / arm.n, is_scaled=True),
    )


def comparable(control: Estimate, arm: Estimate, *, is_money: bool) -> tuple[Estimate, Estimate]:
    """Return the estimates of two arms to compare.

    Money in arms that are further apart than 60 to 40 gets one spread relative to the mean, and compares by the
    logarithm of the ratio. Rates, and arms of about equal size, keep their own variances, for which Welch's test holds.
    """
    return with_common_spread(control, arm) if is_money and are_unequal(control.n, arm.n) else (control, arm)


def pair(metric: Metric, control: Moments, arm: Moments) -> tuple[Estimate, Estimate]:
    """Return the estimates of a metric in two arms to compare."""
    return comparable(estimate(metric, control), estimate(metric, arm), is_money=metric.is_money)
