import math

import numpy as np
import pytest
from scipy import optimize, stats

from abtest.confidence_sequence import radius


def mixture_boundary(variance: float, rho: float, alpha: float) -> float:
    """Return where the one-sided normal mixture martingale reaches 1 / alpha, by a root finder."""

    def log_value(total: float) -> float:
        spread = variance + rho
        tail = float(stats.norm.logcdf(total / math.sqrt(spread)))
        return math.log(2.0) + 0.5 * math.log(rho / spread) + total**2 / (2.0 * spread) + tail + math.log(alpha)

    return float(optimize.brentq(log_value, 0.0, 100.0 * math.sqrt(variance + rho)))


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.0033])
@pytest.mark.parametrize("n", [20, 200, 2_000, 50_000])
def test_the_bound_is_the_normal_mixture_and_no_tighter(alpha: float, n: int) -> None:
    """The closed form bounds the boundary of the mixture from above, by a few per cent at most."""
    level = 2.0 * math.log(1.0 / (2.0 * alpha))
    exact = mixture_boundary(n, 2_000 / (level + math.log(1.0 + level)), alpha) / math.sqrt(n)
    found = radius(1.0, n, alpha=alpha, tuned_at=2_000)
    assert exact <= found <= 1.05 * exact


def test_the_bound_is_tightest_near_the_number_it_is_tuned_at() -> None:
    grid = np.geomspace(10, 1e6, 200)
    found = [radius(1.0, n, alpha=0.01, tuned_at=2_000) for n in grid]
    assert 1_000 < grid[int(np.argmin(found))] < 6_000


def test_looks_after_each_observation_are_wrong_no_more_often_than_alpha() -> None:
    """Clicks of 20,000 clients, looked at after each one: a bound for a single look would be wrong far more often."""
    rng, n, runs, alpha = np.random.default_rng(5), 20_000, 400, 0.05
    count_N = np.arange(1, n + 1)
    share = 0.1
    se_N = math.sqrt(share * (1 - share)) / np.sqrt(count_N)
    radius_N = np.array(
        [radius(se, k, alpha=alpha, tuned_at=2_000) for se, k in zip(se_N.tolist(), count_N.tolist(), strict=True)]
    )
    fixed_N = stats.norm.isf(alpha) * se_N
    wrong = wrong_fixed = 0
    for _ in range(runs):
        error_N = np.cumsum(rng.random(n) < share) / count_N - share
        wrong += bool((error_N[50:] > radius_N[50:]).any())
        wrong_fixed += bool((error_N[50:] > fixed_N[50:]).any())
    assert wrong <= stats.binom.ppf(0.999, runs, alpha)
    assert wrong_fixed > 3 * runs * alpha


@pytest.mark.parametrize(("se", "n", "alpha"), [(-1.0, 10, 0.05), (1.0, 0, 0.05), (1.0, 10, 0.5), (1.0, 10, 0.0)])
def test_numbers_without_sense_are_refused(se: float, n: float, alpha: float) -> None:
    with pytest.raises(ValueError, match=f"n = {n}"):
        radius(se, n, alpha=alpha, tuned_at=10)
