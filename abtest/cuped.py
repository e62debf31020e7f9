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
    """Return the adjusted comparison of an arm with the control.

    There is none where the metric is undefined, or where no clients can have the moments.

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
    # Without a value of both arms together there is no weight of both.
    has_weight = None not in (*earlier, of_quotient(metric, both).value)
    theta = _theta(both, metric, before) if has_weight else 0.0
    shifts = [0.0 if theta == 0.0 else theta * (each - earlier[2]) for each in earlier[:2]]  # type: ignore[operator]
    adjusted = [value - shift for value, shift in zip(values, shifts, strict=True)]  # type: ignore[operator]
    gradients = [_gradient(part, metric) for part in (control, arm)]
    weights = [
        gradient - theta * _gradient(part, before) if theta else gradient
        for part, gradient in zip((control, arm), gradients, strict=True)
    ]
    variances = [_variance(part, weight) for part, weight in zip((control, arm), weights, strict=True)]
    plain = [_variance(part, gradient) for part, gradient in zip((control, arm), gradients, strict=True)]
    variance_ratio = sum(variances) / sum(plain) if sum(plain) else 1.0
    if not np.isfinite([*variances, *plain, variance_ratio]).all():
        return None
    covariance = -_covariance(control, weights[0], gradients[0]) / control.n
    return Adjusted(
        control=adjusted[0],
        arm=adjusted[1],
        theta=theta,
        variance_ratio=variance_ratio,
        lift=lift_of(
            adjusted[1] - adjusted[0],
            variances=(variances[0], variances[1]),
            degrees=(control.n - 1, arm.n - 1),
            base=float(values[0]),  # type: ignore[arg-type]
            base_variance=plain[0],
            covariance=covariance,
            alpha=alpha,
        ),
        covariance=covariance,
    )


def _gradient(part: Moments, quotient: Quotient) -> NDArray[np.float64]:
    """Return the derivative of the value by the mean of each column."""
    gradient_K = np.zeros(len(part.mean))
    for column, derivative in quotient.gradient(part):
        gradient_K[column] += derivative
    return gradient_K


def _theta(both: Moments, metric: Quotient, before: Quotient) -> float:
    metric_K, before_K = _gradient(both, metric), _gradient(both, before)
    spread = _variance(both, before_K) * both.n
    return _covariance(both, metric_K, before_K) / spread if spread > 0.0 else 0.0


def _variance(part: Moments, weight_K: NDArray[np.float64]) -> float:
    """Return the variance of the weighted sum of means; NaN if no clients have such moments."""
    spread, _ = part.spread(*((column, float(weight_K[column])) for column in np.flatnonzero(weight_K).tolist()))
    return spread / (part.n - 1) / part.n


def _covariance(part: Moments, left_K: NDArray[np.float64], right_K: NDArray[np.float64]) -> float:
    """Return the covariance of two weighted sums of columns; the other columns need not be numbers."""
    rows, columns = np.flatnonzero(left_K), np.flatnonzero(right_K)
    with np.errstate(invalid="ignore", over="ignore"):
        return float(left_K[rows] @ part.comoment[np.ix_(rows, columns)] @ right_K[columns]) / (part.n - 1)
