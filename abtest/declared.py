"""Comparison by which a plan decides: plain, or adjusted by what clients did before their first exposure (CUPED).

The earlier value of a metric is read from sessions of all experiments and of none; clients without a past have 0. After
refunds, the earlier value is that before refunds: a refund can come after the exposure.

Source: docs/experiments.md, Adjustment by the time before.
"""

from abtest import cuped, inference
from abtest.cuped import Adjusted
from abtest.estimates import Quotient, columns_of
from abtest.experiment import are_unequal
from abtest.inference import Lift
from abtest.metrics import COLUMNS, Metric
from abtest.plan import Plan
from abtest.queries import Facts
from abtest.strata import compared, weights_of
from abtest.stratified import stratified_moments


def declared(facts: Facts, plan: Plan, metric: Metric, control: str, arm: str, *, alpha: float) -> Lift:
    """Return the comparison of an arm with the control that the plan declares, at an error level."""
    found = adjusted(facts, plan, metric, control, arm, alpha=alpha)
    return inference.compare(*compared(facts, metric, control, arm), alpha) if found is None else found.lift


def adjusted(facts: Facts, plan: Plan, metric: Metric, control: str, arm: str, *, alpha: float) -> Adjusted | None:
    """Return the comparison by CUPED, or None where the plan declares none or the moments allow none.

    Money in arms further apart than 60 to 40 is not adjusted: its variance needs the spread of both arms.
    """
    if plan.cuped_days is None or not metric.can_decide:
        return None
    found = [facts.sample(metric, name) for name in (control, arm)]
    moments = [sample.moments for sample in found]
    if facts.stratified:
        weights = weights_of(facts, metric)
        if not weights:
            return None
        moments = [stratified_moments(sample.by_epoch, weights) for sample in found]
    base, treated = moments
    if min(base.n, treated.n) < 2 or (metric.is_money and are_unequal(base.n, treated.n)):
        return None
    return cuped.compare(base, treated, columns_of(metric), _before(metric), alpha)


def _before(metric: Metric) -> Quotient:
    numerator = "gross_minor" if metric.numerator == "net_minor" else metric.numerator
    below = None if metric.denominator is None else len(COLUMNS) + COLUMNS.index(metric.denominator)
    return Quotient(len(COLUMNS) + COLUMNS.index(numerator), below)
