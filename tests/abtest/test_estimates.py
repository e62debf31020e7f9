import numpy as np
import pytest
from numpy.typing import NDArray

from abtest import inference
from abtest.estimates import estimate, pair
from abtest.inference import Estimate, mean, ratio
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments


def test_a_metric_is_the_mean_or_the_ratio_of_its_columns() -> None:
    moments = Moments.of(np.random.default_rng(1).random((50, len(COLUMNS))))
    assert estimate(METRICS["gmv"], moments) == mean(moments, COLUMNS.index("gross_minor"))
    assert estimate(METRICS["cvr"], moments) == ratio(
        moments, COLUMNS.index("clicked_orders"), COLUMNS.index("sessions")
    )


def moments_of(*columns: NDArray[np.float64]) -> Moments:
    """Moments of clients with these sessions, orders and amounts, zeros elsewhere."""
    x = np.zeros((len(columns[0]), len(COLUMNS)))
    for name, column in zip(("sessions", "orders", "gross_minor"), columns, strict=False):
        x[:, COLUMNS.index(name)] = column
    return Moments.of(x)


def test_money_in_unequal_arms_has_one_spread_relative_to_the_mean() -> None:
    random = np.random.default_rng(3)
    ones = np.ones(900)
    large, small = random.lognormal(8.0, 1.0, 900), random.lognormal(8.3, 1.4, 100)
    control, arm = moments_of(ones, ones, large), moments_of(ones[:100], ones[:100], small)
    spread = (899 * np.var(large, ddof=1) / large.mean() ** 2 + 99 * np.var(small, ddof=1) / small.mean() ** 2) / 998
    for metric in ("gmv", "aov"):
        base, found = pair(METRICS[metric], control, arm)
        assert base.variance == pytest.approx(spread * large.mean() ** 2 / 900)
        assert found.variance == pytest.approx(spread * small.mean() ** 2 / 100)
        assert (base.value, found.value) == pytest.approx((large.mean(), small.mean()))


def test_rates_and_arms_of_about_equal_size_keep_their_own_variances() -> None:
    random = np.random.default_rng(4)
    parts = [random.lognormal(8.0, 1.0, n) for n in (900, 600, 100)]
    control, nearly, small = (moments_of(np.ones(len(part)), part, part) for part in parts)
    assert pair(METRICS["gmv"], control, nearly) == (
        estimate(METRICS["gmv"], control),
        estimate(METRICS["gmv"], nearly),
    )
    rate = METRICS["orders_per_client"]
    assert pair(rate, control, small) == (estimate(rate, control), estimate(rate, small))


@pytest.mark.parametrize("value", [0.0, -5.0])
def test_a_mean_that_is_not_above_zero_keeps_its_variance(value: float) -> None:
    found = Estimate(n=900, value=10.0, variance=1.0), Estimate(n=100, value=value, variance=4.0)
    assert inference.with_common_spread(*found) == found


def test_an_undefined_estimate_stays_undefined() -> None:
    found = Estimate(n=900, value=10.0, variance=1.0), Estimate(n=0, value=None, variance=None, reason="no_clients")
    assert inference.with_common_spread(*found) == found


def test_unequal_arms_without_an_effect_are_seldom_found_worse() -> None:
    """Skewed amounts, 110 buyers in the small arm: Welch's own variances find harm in twice as many experiments."""
    random = np.random.default_rng(5)
    runs, lower = 1_500, {"own": 0, "common": 0}
    for _ in range(runs):
        control, arm = (
            Estimate(n=n, value=float(amounts.mean()), variance=float(amounts.var(ddof=1)) / n)
            for n in (990, 110)
            for amounts in [random.lognormal(0.0, 1.1, n)]
        )
        for name, found in (("own", (control, arm)), ("common", inference.with_common_spread(control, arm))):
            lift = inference.compare(*found)
            assert lift.p_fixed is not None
            assert lift.diff is not None
            lower[name] += lift.p_fixed < 0.05 and lift.diff < 0.0
    assert lower["common"] < 0.055 * runs
    assert lower["own"] > 1.4 * lower["common"]
