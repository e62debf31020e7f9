"""CUPED against sums over single clients, a regression and simulation."""

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from abtest import inference
from abtest.cuped import compare
from abtest.estimates import Quotient
from abtest.moments import Moments
from tests.abtest import quotients

Floats = NDArray[np.float64]
MEAN, BEFORE = Quotient(0), Quotient(2)
RATIO, RATIO_BEFORE = Quotient(0, 1), Quotient(2, 3)


def clients(seed: int, n: int, lift: float = 0.0) -> Floats:
    """Numerator and denominator during and before, of clients with lasting habits (n, 4)."""
    random = np.random.default_rng(seed)
    habit = random.lognormal(0.0, 0.5, n)
    sessions, past = 1 + random.poisson(3 * habit), random.poisson(3 * habit)
    taste = random.beta(4.0, 16.0, n)
    bought = random.binomial(sessions, np.minimum(1.0, taste * (1.0 + lift)))
    return np.column_stack([bought, sessions, random.binomial(past, taste), past]).astype(np.float64)


def test_a_mean_is_that_of_adjusted_clients() -> None:
    control, arm = clients(1, 900), clients(2, 500, lift=0.2)
    found = compare(Moments.of(control), Moments.of(arm), MEAN, BEFORE)
    assert found is not None
    both = np.concatenate([control, arm])
    theta = np.cov(both[:, 0], both[:, 2])[0, 1] / np.var(both[:, 2], ddof=1)
    y0, y1 = (part[:, 0] - theta * (part[:, 2] - both[:, 2].mean()) for part in (control, arm))
    t, p, df = CompareMeans(DescrStatsW(y1), DescrStatsW(y0)).ttest_ind(usevar="unequal")
    assert found.theta == pytest.approx(theta)
    assert (found.control, found.arm) == pytest.approx((y0.mean(), y1.mean()))
    assert (found.lift.p_fixed, found.lift.df) == pytest.approx((p, df))
    assert found.lift.diff is not None
    assert found.lift.se is not None
    assert found.lift.diff / found.lift.se == pytest.approx(t)
    assert found.lift.lift == pytest.approx((y1.mean() - y0.mean()) / control[:, 0].mean())
    own = y0.var(ddof=1) / 900 + y1.var(ddof=1) / 500
    assert found.variance_ratio == pytest.approx(own / (control[:, 0].var(ddof=1) / 900 + arm[:, 0].var(ddof=1) / 500))
    assert found.variance_ratio < 0.97


def test_a_mean_is_near_that_of_a_regression() -> None:
    """Analysis of covariance finds its slope within the arms, CUPED in both together."""
    control, arm = clients(3, 4_000), clients(4, 4_000, lift=0.1)
    found = compare(Moments.of(control), Moments.of(arm), MEAN, BEFORE)
    assert found is not None
    treated = np.repeat([0.0, 1.0], 4_000)
    both = np.concatenate([control, arm])
    fit = sm.OLS(both[:, 0], np.column_stack([np.ones(8_000), treated, both[:, 2]])).fit(cov_type="HC1")
    assert found.lift.diff == pytest.approx(fit.params[1], rel=0.01)
    assert found.lift.se == pytest.approx(fit.bse[1], rel=0.01)


def test_a_ratio_is_that_of_linearised_clients() -> None:
    control, arm = clients(5, 700), clients(6, 800, lift=0.2)
    found = compare(Moments.of(control), Moments.of(arm), RATIO, RATIO_BEFORE)
    assert found is not None
    both = np.concatenate([control, arm])

    def residuals(part: Floats, of: Floats, above: int, below: int) -> Floats:
        ratio = part[:, above].sum() / part[:, below].sum()
        linear: Floats = (of[:, above] - ratio * of[:, below]) / part[:, below].mean()
        return linear

    now, past = (residuals(both, both, *columns) for columns in ((0, 1), (2, 3)))
    theta = np.cov(now, past)[0, 1] / np.var(past, ddof=1)
    assert found.theta == pytest.approx(theta)
    variances = []
    for part in (control, arm):
        z = residuals(part, part, 0, 1) - theta * residuals(part, part, 2, 3)
        variances.append(z.var(ddof=1) / len(part))
    assert found.lift.se == pytest.approx(np.sqrt(sum(variances)))
    sums = [part.sum(axis=0) for part in (control, arm)]
    ratios = [now / sessions - theta * past / earlier for now, sessions, past, earlier in sums]
    assert found.lift.diff == pytest.approx(ratios[1] - ratios[0])


def test_without_a_past_it_is_the_plain_comparison() -> None:
    parts = [clients(7, 300), clients(8, 400)]
    for part in parts:
        part[:, 2:] = 0.0
    control, arm = map(Moments.of, parts)
    for metric, before in ((MEAN, BEFORE), (RATIO, RATIO_BEFORE)):
        found = compare(control, arm, metric, before)
        assert found is not None
        assert (found.theta, found.variance_ratio) == (0.0, 1.0)
        if metric.denominator is None:
            plain = inference.compare(quotients.mean(control, 0), quotients.mean(arm, 0))
        else:
            plain = inference.compare(quotients.ratio(control, 0, 1), quotients.ratio(arm, 0, 1))
        for name in ("diff", "se", "df", "p_fixed", "lift", "lift_se", "lo", "hi"):
            assert getattr(found.lift, name) == pytest.approx(getattr(plain, name)), name


def test_the_interval_of_a_ratio_holds_the_true_lift() -> None:
    """A lift of 10 %: 95 % intervals hold it, and the set is near that of the delta method."""
    inside, runs = 0, 400
    for seed in range(runs):
        found = compare(
            Moments.of(clients(10_000 + seed, 600)),
            Moments.of(clients(20_000 + seed, 600, lift=0.1)),
            RATIO,
            RATIO_BEFORE,
        )
        assert found is not None
        assert found.lift.lo is not None
        assert found.lift.hi is not None
        assert found.lift.lift is not None
        assert found.lift.lift_se is not None
        inside += found.lift.lo <= 0.1 <= found.lift.hi
        assert found.lift.hi - found.lift.lo == pytest.approx(2 * 1.96 * found.lift.lift_se, rel=0.05)
    assert 0.92 * runs <= inside <= 0.98 * runs


def test_impossible_moments_have_no_comparison() -> None:
    one, many = Moments.of(clients(1, 1)), Moments.of(clients(2, 50))
    empty = clients(3, 50)
    empty[:, 1] = 0.0
    assert compare(one, many, MEAN, BEFORE) is None
    assert compare(many, Moments.of(empty), RATIO, RATIO_BEFORE) is None


def test_denominators_that_cancel_adjust_nothing() -> None:
    parts = clients(5, 300), clients(6, 300)
    parts[1][:, 1] *= -parts[0][:, 1].sum() / parts[1][:, 1].sum()
    control, arm = (Moments.of(part) for part in parts)
    arm = replace(arm, mean=np.where(np.arange(4) == 1, -control.mean, arm.mean))
    found = compare(control, arm, RATIO, RATIO_BEFORE)
    assert found is not None
    assert (found.theta, found.variance_ratio) == (0.0, 1.0)


@pytest.mark.parametrize("past", [0.1, 1e7 / 3.0])
def test_a_past_that_is_the_same_for_all_clients_adjusts_nothing(past: float) -> None:
    """The means of both arms differ in the last digit, which must not become a weight."""
    parts = [clients(9, 301), clients(10, 407, lift=0.3)]
    for part in parts:
        part[:, 2] = past
    found = compare(Moments.of(parts[0]), Moments.of(parts[1]), MEAN, BEFORE)
    assert found is not None
    assert (found.theta, found.variance_ratio) == (0.0, 1.0)


def test_a_metric_that_its_past_predicts_exactly_has_no_test() -> None:
    parts = [clients(11, 300), clients(12, 300)]
    for part in parts:
        part[:, 0] = 0.3 * part[:, 2] + 0.1
    found = compare(Moments.of(parts[0]), Moments.of(parts[1]), MEAN, BEFORE)
    assert found is not None
    assert (found.variance_ratio, found.lift.p_fixed, found.lift.reason) == (0.0, None, "zero_variance")


@pytest.mark.parametrize("broken", [-1.0, np.nan, np.inf])
def test_moments_that_no_clients_have_are_not_compared(broken: float) -> None:
    fine = Moments.of(clients(13, 50))
    comoment = fine.comoment.copy()
    comoment[0, 0] = broken
    for metric, before in ((MEAN, BEFORE), (RATIO, RATIO_BEFORE)):
        assert compare(fine, Moments(n=50, mean=fine.mean, comoment=comoment), metric, before) is None
