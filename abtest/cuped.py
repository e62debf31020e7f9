"""Adjustment of an experiment metric by what the same clients did before (CUPED), for means and for ratios.

The adjusted value is the metric less `theta` times the deviation of the earlier metric, with one `theta` for both
arms. The lift is relative to the control's value as it is.

Source: Deng, Xu, Kohavi, Walker 2013, Improving the Sensitivity of Online Controlled Experiments by Utilizing
Pre-Experiment Data; section 4 and appendix B for ratios (delta method).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from abtest.estimates import Quotient, of_quotient
from abtest.inference import Lift, lift_of
from abtest.moments import Moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """Adjusted comparison.

    Attributes:
        control: Adjusted value of the control.
        arm: Adjusted value of the arm.
        theta: Weight of the earlier metric; 0 if it does not differ between clients.
        variance_ratio: Variance of the adjusted difference over that of the plain one.
        lift: Comparison of the adjusted values.
        covariance: Covariance of the adjusted difference and the control's plain value.
    """

    control: float
    arm: float
    theta: float
    variance_ratio: float
    lift: Lift
    covariance: float


def compare(control: Moments, arm: Moments, metric: Quotient, before: Quotient, alpha: float = 0.05) -> Adjusted | None:
    """Return the adjusted comparison of an arm with the control, or None where the metric is undefined.

    Args:
        control: Moments of the control's clients.
        arm: Moments of the arm's clients.
        metric: The metric during the experiment.
        before: The same metric before the first exposure; 0 for clients without a past.
        alpha: Two-sided error level.
    """
    if control.n < 2 or arm.n < 2:
        return None
    both = control + arm
    values = [of_quotient(metric, part).value for part in (control, arm)]
    earlier = [of_quotient(before, part).value for part in (control, arm, both)]
    if None in values:
        return None
    theta = 0.0 if None in earlier else _theta(both, metric, before)
    shifts = [0.0 if theta == 0.0 else theta * (each - earlier[2]) for each in earlier[:2]]  # type: ignore[operator]
    adjusted = [value - shift for value, shift in zip(values, shifts, strict=True)]  # type: ignore[operator]
    gradients = [_gradient(part, metric) for part in (control, arm)]
    weights = [
        gradient - theta * _gradient(part, before) if theta else gradient
        for part, gradient in zip((control, arm), gradients, strict=True)
    ]
    variances = [_variance(part, weight) for part, weight in zip((control, arm), weights, strict=True)]
    plain = sum(_variance(part, gradient) for part, gradient in zip((control, arm), gradients, strict=True))
    base_gradient = gradients[0]
    covariance = -float(weights[0] @ _covariance(control) @ base_gradient) / control.n
    return Adjusted(
        control=adjusted[0],
        arm=adjusted[1],
        theta=theta,
        variance_ratio=sum(variances) / plain if plain else 1.0,
        lift=lift_of(
            adjusted[1] - adjusted[0],
            variances=(variances[0], variances[1]),
            degrees=(control.n - 1, arm.n - 1),
            base=float(values[0]),  # type: ignore[arg-type]
            base_variance=_variance(control, base_gradient),
            covariance=covariance,
            alpha=alpha,
        ),
        covariance=covariance,
    )


def _gradient(part: Moments, quotient: Quotient) -> NDArray[np.float64]:
    """Return the derivative of the value by the mean of each column."""
    gradient_K = np.zeros(len(part.mean))
    if quotient.denominator is None:
        gradient_K[quotient.numerator] = 1.0
        return gradient_K
    below = float(part.mean[quotient.denominator])
    gradient_K[quotient.numerator] = 1.0 / below
    gradient_K[quotient.denominator] -= float(part.mean[quotient.numerator]) / below**2
    return gradient_K


def _theta(both: Moments, metric: Quotient, before: Quotient) -> float:
    metric_K, before_K = _gradient(both, metric), _gradient(both, before)
    covariance = _covariance(both)
    spread = float(before_K @ covariance @ before_K)
    return float(metric_K @ covariance @ before_K) / spread if spread > 0.0 else 0.0


def _variance(part: Moments, weight_K: NDArray[np.float64]) -> float:
    return max(0.0, float(weight_K @ _covariance(part) @ weight_K)) / part.n


def _covariance(part: Moments) -> NDArray[np.float64]:
    return part.comoment / (part.n - 1)
