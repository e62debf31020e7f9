"""Estimate of an experiment metric from the moments of one arm.

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
