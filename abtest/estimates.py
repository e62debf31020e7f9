"""Estimates of an experiment metric in one arm, from moments with the client as unit.

An undefined number is None with a reason.

Source: docs/experiments.md; Deng, Knoblich, Lu 2018 (delta method).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

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

    @classmethod
    def of(cls, columns: Sequence[str], numerator: str, denominator: str | None) -> Self:
        """Return the quotient of two columns by their names."""
        return cls(columns.index(numerator), None if denominator is None else columns.index(denominator))

    def value(self, moments: Moments) -> float | None:
        """Return the mean or the ratio; None if the denominator is zero."""
        above = moments.mean.item(self.numerator)
        if self.denominator is None:
            return above
        below = moments.mean.item(self.denominator)
        return above / below if below != 0.0 else None

    def gradient(self, moments: Moments) -> tuple[tuple[int, float], ...]:
        """Return each column with the derivative of the value by its mean; the denominator is not zero."""
        if self.denominator is None:
            return ((self.numerator, 1.0),)
        above, below = moments.mean.item(self.numerator), moments.mean.item(self.denominator)
        return (self.numerator, 1.0 / below), (self.denominator, -above / below / below)


def columns_of(metric: Metric) -> Quotient:
    """Return the columns of an experiment metric."""
    return _quotient(metric.numerator, metric.denominator)


@cache
def _quotient(numerator: str, denominator: str | None) -> Quotient:
    return Quotient.of(COLUMNS, numerator, denominator)


def estimate(metric: Metric, moments: Moments) -> Estimate:
    """Return the value of a metric and its variance, with the client as unit."""
    return of_quotient(columns_of(metric), moments)


def of_quotient(quotient: Quotient, moments: Moments) -> Estimate:
    """Return the mean or the ratio of columns; the variance of a ratio is that of the delta method."""
    n = moments.n
    if n == 0:
        return Estimate(n=0, value=None, variance=None, reason="no_clients")
    value = quotient.value(moments)
    if value is None:
        return Estimate(n=n, value=None, variance=None, reason="zero_denominator")
    spread, reason = moments.spread(*quotient.gradient(moments))
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
