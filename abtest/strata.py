"""Comparison of two arms of an experiment: by epoch where the shares of the arms differ between epochs, else pooled.

Source: docs/experiments.md, Analysis of a ramp.
"""

from abtest.estimates import Estimate, columns_of, pair
from abtest.metrics import Metric
from abtest.queries import Facts
from abtest.stratified import epoch_weights, stratified_pair


def compared(facts: Facts, metric: Metric, control: str, arm: str) -> tuple[Estimate, Estimate]:
    """Return the estimates of the control and of an arm: by epoch if their shares differ, else pooled."""
    samples = facts.sample(metric, control), facts.sample(metric, arm)
    if not facts.stratified:
        return pair(metric, samples[0].moments, samples[1].moments)
    weights = weights_of(facts, metric)
    return stratified_pair(
        columns_of(metric), samples[0].by_epoch, samples[1].by_epoch, weights, is_money=metric.is_money
    )


def weights_of(facts: Facts, metric: Metric) -> dict[int, float]:
    """Return the share of each epoch in the estimates of a metric."""
    everyone = facts.settled if metric.waits_for_refunds else facts.matured
    return epoch_weights([sample.by_epoch for sample in everyone.values()])
