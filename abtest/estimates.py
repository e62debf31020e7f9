"""Estimates of an experiment metric from the moments of arms.

Source: docs/experiments.md.
"""

from abtest import inference
from abtest.inference import Estimate
from abtest.metrics import COLUMNS, Metric
from abtest.moments import Moments


def estimate(metric: Metric, moments: Moments) -> Estimate:
    """Return the value of a metric and its variance, with the client as unit."""
    numerator = COLUMNS.index(metric.numerator)
    if metric.denominator is None:
        return inference.mean(moments, numerator)
    return inference.ratio(moments, numerator, COLUMNS.index(metric.denominator))


def pair(metric: Metric, control: Moments, arm: Moments) -> tuple[Estimate, Estimate]:
    """Return the estimates of two arms to compare.

    Money in arms that are further apart than 60 to 40 gets one spread relative to the mean, and compares by the
    logarithm of the ratio. Rates, and arms of about equal size, keep their own variances, for which Welch's test holds.
    """
    found = estimate(metric, control), estimate(metric, arm)
    return inference.comparable_money(*found) if metric.is_money else found
