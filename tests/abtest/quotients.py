"""Estimates of a mean and of a ratio, by the numbers of their columns."""

from abtest.estimates import Estimate, Quotient, of_quotient
from abtest.moments import Moments


def mean(moments: Moments, column: int) -> Estimate:
    """Return the mean of a column over clients."""
    return of_quotient(Quotient(column), moments)


def ratio(moments: Moments, numerator: int, denominator: int) -> Estimate:
    """Return the ratio of two columns' sums."""
    return of_quotient(Quotient(numerator, denominator), moments)
