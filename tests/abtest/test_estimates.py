import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from abtest import estimates, inference
from abtest.estimates import Estimate, estimate, pair
from abtest.metrics import COLUMNS, METRICS
from abtest.moments import Moments
from abtest.monitoring import monitored
from tests.abtest.quotients import mean, ratio


def test_a_metric_is_the_mean_or_the_ratio_of_its_columns() -> None:
    moments = Moments.of(np.random.default_rng(1).random((50, len(COLUMNS))))
    assert estimate(METRICS["gmv"], moments) == mean(moments, COLUMNS.index("gross_minor"))
    assert estimate(METRICS["cvr"], moments) == ratio(
        moments, COLUMNS.index("clicked_orders"), COLUMNS.index("sessions")
    )


def test_ratio_variance_equals_that_of_the_linearised_clients() -> None:
    random = np.random.default_rng(6)
    below = random.poisson(3, 500) + 1.0
    above = random.binomial(below.astype(int), 0.3).astype(float)
    found = ratio(Moments.of(np.column_stack([above, below])), 0, 1)
    value = above.sum() / below.sum()
    assert found.value == pytest.approx(value, rel=1e-12)
    residual = (above - value * below) / below.mean()
    assert found.variance == pytest.approx(residual.var(ddof=1) / len(residual), rel=1e-9)


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
    assert estimates.with_common_spread(*found) == found


def test_an_undefined_estimate_stays_undefined() -> None:
    found = Estimate(n=900, value=10.0, variance=1.0), Estimate(n=0, value=None, variance=None, reason="no_clients")
    assert estimates.with_common_spread(*found) == found


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
def test_money_in_unequal_arms_is_compared_by_the_log_ratio(factor: float) -> None:
    random = np.random.default_rng(6)
    large = random.lognormal(8.0, 1.0, 900)
    small = random.lognormal(8.0, 1.0, 100)
    small *= factor * large.mean() / small.mean()
    ones = np.ones(900)
    control, arm = pair(METRICS["gmv"], moments_of(ones, ones, large), moments_of(ones[:100], ones[:100], small))
    lift = inference.compare(control, arm, alpha=0.1)
    spread = (899 * np.var(large, ddof=1) / large.mean() ** 2 + 99 * np.var(small, ddof=1) / small.mean() ** 2) / 998
    se = np.sqrt(spread * (1 / 900 + 1 / 100))
    assert lift.df is not None
    q = stats.t.ppf(0.95, lift.df)
    assert lift.p_fixed == pytest.approx(2.0 * stats.t.sf(abs(np.log(factor)) / se, lift.df))
    assert (lift.lo, lift.hi) == pytest.approx((factor * np.exp(-q * se) - 1.0, factor * np.exp(q * se) - 1.0))
    assert lift.lift == pytest.approx(factor - 1.0, abs=1e-12)
    assert lift.lift_se == pytest.approx(factor * se)
    assert lift.diff is not None
    assert lift.se is not None
    assert lift.diff / lift.se == pytest.approx(np.log(factor) / se, abs=1e-9)


@given(
    control_share=st.floats(0.01, 0.3) | st.floats(0.7, 0.99), factor=st.floats(0.05, 20.0), alpha=st.floats(0.001, 0.3)
)
def test_the_sets_of_unequal_money_exclude_zero_exactly_if_the_test_rejects(
    control_share: float, factor: float, alpha: float
) -> None:
    n = 2_000
    control_n = round(n * control_share)
    control = Estimate(n=control_n, value=10.0, variance=400.0 / control_n)
    arm = Estimate(n=n - control_n, value=10.0 * factor, variance=900.0 * factor**2 / (n - control_n))
    scaled = estimates.comparable(control, arm, is_money=True)
    lift = inference.compare(*scaled, alpha)
    found = monitored(*scaled, lift, alpha=alpha, tightest=n)
    assert lift.p_fixed is not None
    assert lift.lo is not None
    assert lift.hi is not None
    if abs(lift.p_fixed - alpha) > 1e-9:
        assert (lift.lo > 0.0 or lift.hi < 0.0) == (lift.p_fixed < alpha)
    assert found.cs_p is not None
    assert found.cs_lo is not None
    assert found.cs_hi is not None
    if abs(found.cs_p - alpha) > 1e-9:
        assert (found.cs_lo > 0.0 or found.cs_hi < 0.0) == (found.cs_p < alpha)
    assert -1.0 < found.cs_lo < lift.lo < factor - 1.0 < lift.hi < found.cs_hi


def test_unequal_arms_without_an_effect_are_as_often_found_better_as_worse() -> None:
    """Skewed amounts, 110 buyers in the small arm: Welch's own variances find harm in three times as many runs."""
    random = np.random.default_rng(5)
    runs, ends = 1_500, {"own": [0, 0], "common": [0, 0]}
    for _ in range(runs):
        control, arm = (
            Estimate(n=n, value=float(amounts.mean()), variance=float(amounts.var(ddof=1)) / n)
            for n in (990, 110)
            for amounts in [random.lognormal(0.0, 1.1, n)]
        )
        for name, found in (("own", (control, arm)), ("common", estimates.with_common_spread(control, arm))):
            lift = inference.compare(*found)
            assert lift.p_fixed is not None
            assert lift.diff is not None
            if lift.p_fixed < 0.05:
                ends[name][lift.diff < 0.0] += 1
    # 2.5 % in each tail is right; its standard error is .4 %.
    assert all(0.013 * runs < number < 0.042 * runs for number in ends["common"]), ends
    assert ends["own"][1] > 1.4 * ends["common"][1]
