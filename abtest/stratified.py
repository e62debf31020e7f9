"""Estimates of arms whose shares differ between epochs: each epoch is a stratum, weighted by its clients.

Pooled over such epochs, an arm is compared with a control of other days: the estimate can have the wrong sign
(Simpson's paradox). The mean of an arm is the mean of its epochs, each weighted by the epoch's share of the clients of
all arms; its variance adds up with the squares of the weights. A ratio is the ratio of two such means, its variance by
the delta method.

Source: docs/experiments.md, Analysis of a ramp; Kohavi, Tang, Xu 2020, chapter 3 (Simpson's paradox); Cochran 1977,
chapter 5A (stratified means), section 6.12 (combined ratios).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from abtest.estimates import Estimate, Quotient, comparable
from abtest.moments import Moments

_FEWEST = 2


def epoch_weights(arms: Sequence[Mapping[int, Moments]]) -> dict[int, float]:
    """Return the share of the clients of all arms in each epoch, of those in which each arm has two clients or more."""
    if not arms:
        return {}
    shared = set.intersection(*({epoch for epoch, part in arm.items() if part.n >= _FEWEST} for arm in arms))
    clients = {epoch: sum(arm[epoch].n for arm in arms) for epoch in sorted(shared)}
    total = sum(clients.values())
    return {epoch: n / total for epoch, n in clients.items()}


def stratified_pair(
    quotient: Quotient,
    control: Mapping[int, Moments],
    arm: Mapping[int, Moments],
    weights: Mapping[int, float],
    *,
    is_money: bool,
) -> tuple[Estimate, Estimate]:
    """Return the stratified estimates of two arms.

    Money in epochs whose arms are further apart than 60 to 40 has one spread relative to the mean.

    Args:
        quotient: Columns of the metric.
        control: Moments of the control by epoch.
        arm: Moments of the arm by epoch.
        weights: Share of each epoch; the arms' other epochs are left out.
        is_money: Whether the metric is an amount.
    """
    found = [_value(quotient, each, weights) for each in (control, arm)]
    if found[0].value is None or found[1].value is None:
        return found[0], found[1]
    variances: list[list[float]] = [[], []]
    for epoch in weights:
        estimates = [
            _in_epoch(quotient, whole, each, weights, epoch) for whole, each in zip(found, (control, arm), strict=True)
        ]
        flaw = next((estimate.reason for estimate in estimates if estimate.reason is not None), None)
        if flaw is not None:
            return replace(found[0], value=None, reason=flaw), replace(found[1], value=None, reason=flaw)
        for side, estimate in enumerate(comparable(*estimates, is_money=is_money)):
            variances[side].append(weights[epoch] ** 2 * (estimate.variance or 0.0))
    sizes = ([each[epoch].n for epoch in weights] for each in (control, arm))
    control_estimate, arm_estimate = (
        replace(whole, variance=sum(parts), df=_df(parts, clients))
        for whole, parts, clients in zip(found, variances, sizes, strict=True)
    )
    return control_estimate, arm_estimate


def _value(quotient: Quotient, arm: Mapping[int, Moments], weights: Mapping[int, float]) -> Estimate:
    n = sum(arm[epoch].n for epoch in weights)
    if not weights:
        return Estimate(n=0, value=None, variance=None, reason="few_clients_by_epoch" if arm else "no_clients")
    above = _mean(quotient.numerator, arm, weights)
    if quotient.denominator is None:
        return Estimate(n=n, value=above, variance=None)
    below = _mean(quotient.denominator, arm, weights)
    if below == 0.0:
        return Estimate(n=n, value=None, variance=None, reason="zero_denominator")
    return Estimate(n=n, value=above / below, variance=None)


def _mean(column: int, arm: Mapping[int, Moments], weights: Mapping[int, float]) -> float:
    return sum(weight * float(arm[epoch].mean[column]) for epoch, weight in weights.items())


def _in_epoch(
    quotient: Quotient, whole: Estimate, arm: Mapping[int, Moments], weights: Mapping[int, float], epoch: int
) -> Estimate:
    """Return the value of the arm with the variance that the clients of one epoch give it."""
    part = arm[epoch]
    scale = 1.0 if quotient.denominator is None else _mean(quotient.denominator, arm, weights)
    terms = [(quotient.numerator, 1.0 / scale)]
    if quotient.denominator is not None:
        terms.append((quotient.denominator, -(whole.value or 0.0) / scale))
    spread, reason = part.spread(*terms)
    if reason is not None:
        return Estimate(n=part.n, value=None, variance=None, reason=reason)
    return Estimate(n=part.n, value=whole.value, variance=spread / (part.n - 1) / part.n)


def _df(variances: Sequence[float], clients: Sequence[int]) -> float | None:
    """Return the degrees of freedom of a sum of variances (Satterthwaite), or None if it is zero or no number."""
    total = sum(variances)
    if not 0.0 < total < math.inf:
        return None
    # Shares have squares where those of large and of small amounts are no numbers.
    return 1.0 / sum((variance / total) ** 2 / (n - 1) for variance, n in zip(variances, clients, strict=True))


def stratified_moments(arm: Mapping[int, Moments], weights: Mapping[int, float]) -> Moments:
    """Return moments whose mean is that of the epochs, weighted, and whose covariance / n is that of this mean."""
    n = sum(arm[epoch].n for epoch in weights)
    mean_K = sum(weight * arm[epoch].mean for epoch, weight in weights.items())
    spread_KK = sum(
        weight**2 * arm[epoch].comoment / (arm[epoch].n - 1) / arm[epoch].n for epoch, weight in weights.items()
    )
    return Moments(n=n, mean=np.asarray(mean_K), comoment=np.asarray(spread_KK) * n * (n - 1))
