"""The confidence sequence against the closed form of the paper, its own p-value, and seeded peeks."""

import math

import numpy as np
import pytest

from abtest.estimates import Estimate
from abtest.inference import compare
from abtest.monitoring import Monitored, monitored, multiplier, p_value

ALPHA, TIGHTEST = 0.05, 4_000


@pytest.mark.parametrize("n", [10, 400, 4_000, 90_000])
def test_the_half_width_is_the_closed_form_of_the_paper(n: int) -> None:
    rho2 = (-2 * math.log(ALPHA) + math.log(-2 * math.log(ALPHA) + 1)) / TIGHTEST
    sigma = 3.0
    width = sigma * math.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / ALPHA))
    assert multiplier(n, ALPHA, TIGHTEST) * sigma / math.sqrt(n) == pytest.approx(width, rel=1e-12)


def test_the_sequence_is_about_tightest_where_the_plan_says() -> None:
    here = multiplier(TIGHTEST, ALPHA, TIGHTEST)
    for elsewhere in (100, 200_000):
        assert multiplier(TIGHTEST, ALPHA, elsewhere) > here


@pytest.mark.parametrize("n", [50, 4_000, 1_000_000])
def test_p_is_alpha_exactly_on_the_edge_of_the_sequence(n: int) -> None:
    assert p_value(multiplier(n, ALPHA, TIGHTEST), n, ALPHA, TIGHTEST) == pytest.approx(ALPHA, rel=1e-12)
    assert p_value(0.0, n, ALPHA, TIGHTEST) == 1.0


@pytest.mark.slow
def test_thirty_peeks_at_equal_arms_are_wrong_in_at_most_5_percent_of_runs() -> None:
    random = np.random.default_rng(3)
    runs, peeks, per_peek, wrong = 500, 30, 60, 0
    for _ in range(runs):
        # Money of clients: one in five buys, for a skewed amount.
        money = (random.random((2, peeks * per_peek)) < 0.2) * random.lognormal(3, 1, (2, peeks * per_peek))
        counts = np.arange(1, peeks + 1) * per_peek
        sums, squares = (np.cumsum(values, axis=1)[:, counts - 1] for values in (money, money**2))
        means = sums / counts
        variances = (squares - counts * means**2) / (counts - 1) / counts
        wrong += any(
            excludes_zero(
                Estimate(n=int(n), value=float(m0), variance=float(v0)),
                Estimate(n=int(n), value=float(m1), variance=float(v1)),
            )
            for n, m0, m1, v0, v1 in zip(counts, *means, *variances, strict=True)
        )
    assert 0 < wrong <= 0.05 * runs


def excludes_zero(control: Estimate, arm: Estimate) -> bool:
    found = monitored(control, arm, compare(control, arm), alpha=ALPHA, tightest=TIGHTEST)
    if found.cs_lo is None or found.cs_hi is None or found.cs_p is None:
        return False
    inside = found.cs_lo <= 0.0 <= found.cs_hi
    excluded = inside if found.cs_kind == "outside" else not inside
    assert excluded == (found.cs_p < ALPHA)
    return excluded


def test_without_a_test_there_is_no_sequence() -> None:
    base = Estimate(n=1, value=1.0, variance=None, reason="one_client")
    found = monitored(base, base, compare(base, base), alpha=ALPHA, tightest=TIGHTEST)
    assert found == Monitored(diff=0.0, lift=0.0, reason="one_client")
    zero = Estimate(n=9, value=0.0, variance=1.0)
    assert monitored(zero, zero, compare(zero, zero), alpha=ALPHA, tightest=TIGHTEST).cs_kind is None


@pytest.mark.parametrize(
    ("n", "alpha", "tightest", "named"),
    [
        (0, 0.05, 100, "n = 0"),
        (9, 0.05, 0, "tightest = 0"),
        (9, 0.0, 100, "alpha = 0.0"),
        (9, 1.0, 100, "alpha = 1.0"),
        (9, math.nan, 100, "alpha = nan"),
    ],
)
def test_impossible_levels_and_numbers_are_refused(n: int, alpha: float, tightest: int, named: str) -> None:
    for function in (multiplier, lambda *given: p_value(1.0, *given)):
        with pytest.raises(ValueError, match=named):
            function(n, alpha, tightest)


@pytest.mark.parametrize("tightest", [10**16, 10**20, 10**30])
def test_a_plan_of_any_number_of_clients_has_a_sequence(tightest: int) -> None:
    # For so small a mixture of the drift, the width is that of its first term.
    rho2 = (-2 * math.log(ALPHA) + math.log(-2 * math.log(ALPHA) + 1)) / tightest
    assert multiplier(9, ALPHA, tightest) == pytest.approx(math.sqrt(-2 * math.log(ALPHA) / (9 * rho2)), rel=1e-12)
    assert p_value(multiplier(9, ALPHA, tightest), 9, ALPHA, tightest) == pytest.approx(ALPHA, rel=1e-12)


def test_a_difference_of_any_size_has_a_p_value() -> None:
    assert p_value(1e200, 9, ALPHA, TIGHTEST) == 0.0
    control, arm = (Estimate(n=9, value=value, variance=1e-20) for value in (1.0, 1e200))
    assert monitored(control, arm, compare(control, arm), alpha=ALPHA, tightest=TIGHTEST).cs_p == 0.0
