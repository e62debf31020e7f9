import csv
import hashlib
import math
import os
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from abtest import estimates, inference
from abtest.estimates import Estimate
from abtest.inference import compare
from abtest.moments import Moments
from abtest.srm import sample_ratio

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
    found = compare(estimates.mean(Moments.of(x[:, None]), 0), estimates.mean(Moments.of(y[:, None]), 0))
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
    base, other = (estimates.ratio(Moments.of(x.astype(float)), 0, 1) for x in (control, arm))
    found = compare(base, other)
    assert found.reason == reason
    assert (found.lo, found.hi, found.set_kind) == (None, None, None)
    assert (found.p_fixed is None) == (reason != "zero_control")


def test_many_comparisons_are_those_of_one_at_a_time_and_of_scipy() -> None:
    """The pairs without a test keep their places and reasons."""
    random = np.random.default_rng(3)
    arms = [Moments.of(random.poisson(1.0 + index % 4, (40 + index, 3)).astype(float)) for index in range(60)]
    ends = [Moments.of(x) for x in (np.zeros((0, 3)), np.ones((1, 3)), np.zeros((5, 3)), np.ones((5, 3)))]
    controls, treated = [*arms, *ends, *arms[:4], ends[3]], [*arms[1:], arms[0], *arms[:4], *ends, ends[3]]
    pairs = [
        (estimate(control), estimate(arm))
        for control, arm in zip(controls, treated, strict=True)
        for estimate in (partial(estimates.mean, column=0), partial(estimates.ratio, numerator=1, denominator=2))
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
        base, other = (estimates.ratio(Moments.of(half), 0, 1) for half in halves)
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
    base, arm = (estimates.mean(Moments.of(spend[name][:, None]), 0) for name in ("No E-Mail", segment))
    found = compare(base, arm)
    assert found.lift == pytest.approx(lift, abs=5e-4)
    assert found.p_fixed == pytest.approx(p, rel=5e-3)
    assert (found.lo, found.hi) == pytest.approx((lo, hi), abs=5e-4)


def test_hillstrom_sample_ratio() -> None:
    spend = hillstrom()
    found = sample_ratio([len(values) for values in spend.values()], [1, 1, 1])
    assert found.p == pytest.approx(0.904, abs=5e-4)


@given(st.lists(st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1e-300, 0.01, 0.5, 1.0])), max_size=30))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    # The function collects garbage at each call, which takes a second in a process with many objects.
    with patch("gc.collect"):
        expected = list(multipletests(p_values, method="holm")[1]) if p_values else []
    assert inference.holm(p_values) == pytest.approx(expected, rel=1e-12)
