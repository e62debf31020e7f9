import csv
import hashlib
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from abtest import estimates, inference
from abtest.estimates import Estimate
from abtest.inference import Lift, compare
from abtest.moments import Moments
from abtest.srm import sample_ratio
from tests.abtest import quotients

HILLSTROM_SHA256 = "ff9e59285e9dc3f5"


def test_the_example_of_the_specification() -> None:
    found = compare(
        Estimate(n=2000, value=1.50, variance=14**2 / 2000), Estimate(n=2000, value=2.75, variance=24**2 / 2000)
    )
    assert found.p_fixed == pytest.approx(0.0443, abs=5e-5)
    assert found.df == pytest.approx(3218.3, abs=0.05)
    assert (found.lo, found.hi) == pytest.approx((0.018, 2.39), abs=5e-3)
    assert found.lift is not None
    assert found.lift_se is not None
    assert found.lift - 1.96 * found.lift_se == pytest.approx(-0.19, abs=5e-3)
    assert found.lift + 1.96 * found.lift_se == pytest.approx(1.86, abs=5e-3)


@pytest.mark.parametrize("mean", [0.0, 5.0, -5.0])
def test_welch_equals_statsmodels_on_raw_arrays(mean: float) -> None:
    random = np.random.default_rng(5)
    x, y = random.normal(mean, 1, 40), random.normal(mean + 0.5, 3, 25)
    found = compare(quotients.mean(Moments.of(x[:, None]), 0), quotients.mean(Moments.of(y[:, None]), 0))
    t, p, df = CompareMeans(DescrStatsW(y), DescrStatsW(x)).ttest_ind(usevar="unequal")
    assert found.diff is not None
    assert found.se is not None
    assert (found.diff / found.se, found.p_fixed, found.df) == pytest.approx((t, p, df), rel=1e-10)


@settings(max_examples=200, deadline=None)
@given(
    base=st.floats(-5, 5).filter(lambda v: abs(v) > 1e-3),
    diff=st.floats(-5, 5),
    v0=st.floats(1e-4, 4),
    v1=st.floats(1e-4, 4),
    n0=st.integers(3, 500),
    n1=st.integers(3, 500),
)
def test_the_interval_excludes_zero_exactly_when_the_test_rejects(
    base: float, diff: float, v0: float, v1: float, n0: int, n1: int
) -> None:
    found = compare(Estimate(n=n0, value=base, variance=v0), Estimate(n=n1, value=base + diff, variance=v1))
    assert found.p_fixed is not None
    if abs(found.p_fixed - 0.05) < 1e-6:
        return
    if found.set_kind == "line":
        holds_zero = True
    else:
        assert found.lo is not None
        assert found.hi is not None
        between = found.lo <= 0.0 <= found.hi
        holds_zero = between if found.set_kind == "interval" else not (found.lo < 0.0 < found.hi)
    assert holds_zero == (found.p_fixed > 0.05)


@settings(max_examples=50, deadline=None)
@given(scale=st.sampled_from([0.01, 100.0, 1e6]), diff=st.floats(-1, 1))
def test_another_money_unit_gives_the_same_p_and_lift(scale: float, diff: float) -> None:
    one = compare(Estimate(n=50, value=2.0, variance=0.1), Estimate(n=60, value=2.0 + diff, variance=0.2))
    other = compare(
        Estimate(n=50, value=2.0 * scale, variance=0.1 * scale**2),
        Estimate(n=60, value=(2.0 + diff) * scale, variance=0.2 * scale**2),
    )
    assert other.p_fixed == pytest.approx(one.p_fixed, rel=1e-9)
    assert (other.lo, other.hi) == pytest.approx((one.lo, one.hi), rel=1e-6, abs=1e-9)


def test_tiny_p_does_not_become_zero() -> None:
    found = compare(Estimate(n=10**6, value=1.0, variance=1e-4), Estimate(n=10**6, value=1.3, variance=1e-4))
    assert found.p_fixed is not None
    assert 0.0 < found.p_fixed < 1e-90


@pytest.mark.parametrize(
    ("control", "arm", "reason"),
    [
        (np.zeros((0, 2)), np.ones((5, 2)), "no_clients"),
        (np.ones((5, 2)), np.zeros((0, 2)), "no_clients"),
        (np.array([[1.0, 2.0]]), np.array([[1.0, 2.0], [2.0, 3.0]]), "one_client"),
        (np.ones((5, 2)), np.ones((7, 2)), "zero_variance"),
        (np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 2.0], [2.0, 3.0]]), "zero_denominator"),
        (np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([[1.0, 2.0], [2.0, 3.0]]), "zero_control"),
    ],
)
def test_undefined_is_none_with_a_reason(control: np.ndarray, arm: np.ndarray, reason: str) -> None:
    base, other = (quotients.ratio(Moments.of(x.astype(float)), 0, 1) for x in (control, arm))
    found = compare(base, other)
    assert found.reason == reason
    assert (found.lo, found.hi, found.set_kind) == (None, None, None)
    assert (found.p_fixed is None) == (reason != "zero_control")


def test_a_value_without_a_variance_has_a_reason() -> None:
    bare = Estimate(n=9, value=1.0, variance=None)
    assert compare(bare, bare) == Lift(diff=0.0, lift=0.0, reason="no_variance")


def test_many_comparisons_are_those_of_one_at_a_time_and_of_scipy() -> None:
    """The pairs without a test keep their places and reasons."""
    random = np.random.default_rng(3)
    arms = [Moments.of(random.poisson(1.0 + index % 4, (40 + index, 3)).astype(float)) for index in range(60)]
    ends = [Moments.of(x) for x in (np.zeros((0, 3)), np.ones((1, 3)), np.zeros((5, 3)), np.ones((5, 3)))]
    controls, treated = [*arms, *ends, *arms[:4], ends[3]], [*arms[1:], arms[0], *arms[:4], *ends, ends[3]]
    pairs = [
        (estimate(control), estimate(arm))
        for control, arm in zip(controls, treated, strict=True)
        for estimate in (partial(quotients.mean, column=0), partial(quotients.ratio, numerator=1, denominator=2))
    ]
    found = inference.compare_all(pairs)
    assert found == [compare(control, arm) for control, arm in pairs]
    reasons = {"no_clients", "one_client", "zero_variance", "zero_denominator", "zero_control"}
    assert {lift.reason for lift in found} == {None, *reasons}
    for lift in found[:120]:
        assert lift.diff is not None
        assert lift.se is not None
        assert lift.df is not None
        assert lift.p_fixed == pytest.approx(2.0 * stats.t.sf(abs(lift.diff / lift.se), lift.df), rel=1e-12)
        assert inference.quantile(0.05, lift.df) == pytest.approx(stats.t.isf(0.025, lift.df), rel=1e-9)


def test_no_comparison_is_none() -> None:
    assert inference.compare_all([]) == []


def test_negative_control_keeps_the_sign_of_the_lift() -> None:
    found = compare(Estimate(n=100, value=-10.0, variance=0.1), Estimate(n=100, value=-8.0, variance=0.1))
    assert found.lift == pytest.approx(0.2)
    assert found.lo is not None
    assert found.hi is not None
    assert 0.0 < found.lo < 0.2 < found.hi


def test_sets_without_bounds_are_named() -> None:
    weak = Estimate(n=50, value=0.1, variance=1.0)
    assert compare(weak, Estimate(n=50, value=0.1, variance=1.0)).set_kind == "line"
    outside = compare(weak, Estimate(n=50, value=9.0, variance=1.0))
    assert outside.set_kind == "outside"
    assert outside.p_fixed is not None
    assert outside.p_fixed < 0.05


def test_clients_as_units_hold_the_level_where_impressions_do_not() -> None:
    random = np.random.default_rng(7)
    num_runs, num_clients = 400, 300
    rejected = {"client": 0, "impression": 0}
    for _ in range(num_runs):
        items = random.poisson(35, 2 * num_clients) + 1
        clicks = random.binomial(items, random.beta(1, 9, 2 * num_clients))
        halves = [np.column_stack([clicks, items])[start::2].astype(float) for start in (0, 1)]
        base, other = (quotients.ratio(Moments.of(half), 0, 1) for half in halves)
        p = compare(base, other).p_fixed
        assert p is not None
        rejected["client"] += p < 0.05
        (c0, i0), (c1, i1) = (half.sum(axis=0) for half in halves)
        pooled = (c0 + c1) / (i0 + i1)
        z = (c1 / i1 - c0 / i0) / math.sqrt(pooled * (1 - pooled) * (1 / i0 + 1 / i1))
        rejected["impression"] += 2 * stats.norm.sf(abs(z)) < 0.05
    assert stats.binomtest(rejected["client"], num_runs, 0.05).pvalue > 0.01
    assert rejected["impression"] / num_runs > 0.25


def hillstrom() -> dict[str, np.ndarray]:
    folder = os.environ.get("SHELFWISE_DATA")  # noqa: TID251
    if folder is None:
        pytest.skip("SHELFWISE_DATA is unset: the folder with hillstrom.csv")
    raw = (Path(folder) / "hillstrom.csv").read_bytes()
    assert hashlib.sha256(raw).hexdigest().startswith(HILLSTROM_SHA256)
    spend: dict[str, list[float]] = {}
    for row in csv.DictReader(raw.decode().splitlines()):
        spend.setdefault(row["segment"], []).append(float(row["spend"]))
    return {segment: np.array(values) for segment, values in spend.items()}


@pytest.mark.parametrize(
    ("segment", "lift", "p", "lo", "hi"),
    [("Mens E-Mail", 1.179, 1.16e-7, 0.644, 1.977), ("Womens E-Mail", 0.650, 0.00113, 0.224, 1.275)],
)
def test_hillstrom(segment: str, lift: float, p: float, lo: float, hi: float) -> None:
    spend = hillstrom()
    base, arm = (quotients.mean(Moments.of(spend[name][:, None]), 0) for name in ("No E-Mail", segment))
    found = compare(base, arm)
    assert found.lift == pytest.approx(lift, abs=5e-4)
    assert found.p_fixed == pytest.approx(p, rel=5e-3)
    assert (found.lo, found.hi) == pytest.approx((lo, hi), abs=5e-4)


def test_hillstrom_sample_ratio() -> None:
    spend = hillstrom()
    found = sample_ratio([len(values) for values in spend.values()], [1, 1, 1])
    assert found.p == pytest.approx(0.904, abs=5e-4)


IMPOSSIBLE = [
    (Moments(n=9, mean=np.array([1.0, 2.0]), comoment=np.array([[-1.0, 0.0], [0.0, 1.0]])), "impossible_moments"),
    (Moments(n=9, mean=np.array([0.0, 2.0]), comoment=np.array([[-1e-9, 0.0], [0.0, 1.0]])), "impossible_moments"),
    (Moments(n=-3, mean=np.array([1.0, 2.0]), comoment=np.eye(2)), "impossible_moments"),
    (Moments(n=9, mean=np.array([math.nan, 2.0]), comoment=np.eye(2)), "not_finite"),
    (Moments(n=1, mean=np.array([math.inf, 2.0]), comoment=np.zeros((2, 2))), "not_finite"),
    (Moments(n=9, mean=np.array([1.0, 2.0]), comoment=np.diag([math.inf, 1.0])), "not_finite"),
    (Moments.of(np.array([[1e200, 1.0], [-1e200, 2.0]])), "not_finite"),
]
CTR = partial(quotients.ratio, numerator=0, denominator=1)
FINE = Moments.of(np.array([[1.0, 2.0], [2.0, 3.0], [4.0, 3.0]]))


@pytest.mark.parametrize(("impossible", "reason"), IMPOSSIBLE)
@pytest.mark.parametrize("estimate", [partial(quotients.mean, column=0), CTR])
def test_impossible_moments_have_no_number(
    estimate: Callable[[Moments], Estimate], impossible: Moments, reason: str
) -> None:
    found = estimate(impossible)
    assert (found.value, found.variance, found.reason) == (None, None, reason)
    for pair in ((found, estimate(FINE)), (estimate(FINE), found)):
        assert compare(*pair) == Lift(reason=reason)


def test_columns_that_vary_together_more_than_each_of_them_have_no_ratio() -> None:
    found = quotients.ratio(Moments(n=9, mean=np.ones(2), comoment=np.array([[1.0, 2.0], [2.0, 1.0]])), 0, 1)
    assert (found.value, found.reason) == (None, "impossible_moments")


@pytest.mark.parametrize("level", [0.1, 1e8])
def test_a_variance_that_rounding_made_is_zero(level: float) -> None:
    """Sums of squares of a constant column that cancel, and parts of one that are merged, leave some last digits."""
    x = np.full(1_001, level)
    cancelled = Moments(n=1_001, mean=np.array([level]), comoment=np.array([[-1e-15 * (x**2).sum()]]))
    merged = Moments.of(x[:3, None]) + Moments.of(x[3:40, None]) + Moments.of(x[40:, None])
    assert [quotients.mean(part, 0).variance for part in (cancelled, merged)] == [0.0, 0.0]


def test_a_ratio_that_is_the_same_for_all_clients_has_no_variance_and_no_test() -> None:
    """Rounding alone must not make 10 % and 20 % of all clients certainly different, or certainly the same."""
    items = np.random.default_rng(2).poisson(20, 700) + 1.0
    base, arm = (quotients.ratio(Moments.of(np.column_stack([share * items, items])), 0, 1) for share in (0.1, 0.2))
    found = compare(base, arm)
    assert (found.p_fixed, found.lo, found.reason) == (None, None, "zero_variance")
    assert found.lift == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        (Estimate(n=9, value=1.0, variance=-0.1), "impossible_moments"),
        (Estimate(n=9, value=1.0, variance=math.nan), "not_finite"),
        (Estimate(n=9, value=math.inf, variance=1.0), "not_finite"),
        (Estimate(n=1, value=1.0, variance=1.0), "one_client"),
        (Estimate(n=0, value=1.0, variance=1.0), "no_clients"),
        (Estimate(n=0, value=1.0, variance=1.0, df=3.0), "no_clients"),
        (Estimate(n=9, value=1.0, variance=1.0, df=0.0), "one_client"),
    ],
)
@pytest.mark.parametrize("prepare", [lambda *pair: pair, estimates.with_common_spread])
def test_impossible_estimates_have_no_comparison(
    prepare: Callable[[Estimate, Estimate], tuple[Estimate, Estimate]], control: Estimate, reason: str
) -> None:
    fine = Estimate(n=9, value=1.0, variance=1.0)
    for pair in ((control, fine), (fine, control)):
        assert compare(*prepare(*pair)) == Lift(reason=reason)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5, -0.1, math.nan])
def test_impossible_levels_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha = {alpha}"):
        compare(Estimate(n=9, value=1.0, variance=1.0), Estimate(n=9, value=1.0, variance=1.0), alpha)


@pytest.mark.parametrize("scale", [1e-140, 1e140])
@pytest.mark.parametrize("prepare", [lambda *pair: pair, estimates.with_common_spread])
def test_huge_and_tiny_units_change_no_lift(
    prepare: Callable[[Estimate, Estimate], tuple[Estimate, Estimate]], scale: float
) -> None:
    one, other = (
        compare(
            *prepare(
                Estimate(n=50, value=2.0 * unit, variance=0.1 * unit * unit),
                Estimate(n=60, value=2.3 * unit, variance=0.2 * unit * unit),
            )
        )
        for unit in (1.0, scale)
    )
    assert one.set_kind == other.set_kind == "interval"
    for name in ("p_fixed", "lift", "lift_se", "lo", "hi"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9), name


def test_ends_beyond_all_numbers_are_a_line() -> None:
    few = estimates.with_common_spread(
        Estimate(n=2, value=1.0, variance=400.0), Estimate(n=9, value=1.0, variance=400.0)
    )
    found = compare(*few, alpha=1e-6)
    assert (found.lo, found.hi, found.set_kind) == (None, None, "line")
