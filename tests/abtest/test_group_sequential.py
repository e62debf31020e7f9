"""Boundaries against published tables, multivariate normal probabilities, and seeded paths."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from abtest.group_sequential import Path, boundaries, p_value, spent

# gsDesign and ldbounds, two-sided 0.05, the Lan-DeMets function of the O'Brien-Fleming type, equally spaced looks.
PUBLISHED = {
    1: [1.95996],
    2: [2.9626, 1.9686],
    5: [4.8769, 3.3569, 2.6803, 2.2898, 2.0310],
    7: [5.815, 4.033, 3.235, 2.767, 2.455, 2.229, 2.056],
}


def totals(fractions: list[float], alpha: float = 0.05) -> list[float]:
    return [spent(alpha, fraction) for fraction in fractions]


@pytest.mark.parametrize(("num_looks", "expected"), PUBLISHED.items())
def test_equally_spaced_looks_have_the_published_boundaries(num_looks: int, expected: list[float]) -> None:
    fractions = [look / num_looks for look in range(1, num_looks + 1)]
    # ldbounds integrates on a coarse grid; its tables differ from gsDesign in the fourth decimal.
    digits = 1e-3 if num_looks == 7 else 1.5e-4
    assert boundaries(fractions, totals(fractions)) == pytest.approx(expected, abs=digits)


def test_uneven_looks_spend_what_the_multivariate_normal_says() -> None:
    fractions = [0.35, 0.4, 0.9]
    found = boundaries([7 * fraction for fraction in fractions], totals(fractions))
    times = np.array(fractions)
    correlation = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    for count in (1, 2, 3):
        bounds = np.array(found[:count])
        inside = stats.multivariate_normal.cdf(
            bounds, cov=correlation[:count, :count], lower_limit=-bounds, abseps=1e-9, rng=np.random.default_rng(1)
        )
        assert 1.0 - inside == pytest.approx(spent(0.05, fractions[count - 1]), abs=2e-7)


def test_paths_without_drift_cross_in_5_percent_of_runs_with_an_unplanned_look_and_an_overrun() -> None:
    # The fraction of the plan is time here, the information runs ahead of it, and the last look comes too late.
    fractions = [0.1, 0.11, 0.5, 0.75, 1.2]
    information = [30.0, 30.5, 90.0, 140.0, 260.0]
    found = boundaries(information, totals(fractions))
    random = np.random.default_rng(1)
    sums = np.cumsum(random.standard_normal((400_000, 5)) * np.sqrt(np.diff([0.0, *information])), axis=1)
    crossed = (np.abs(sums) >= found * np.sqrt(information)).any(axis=1).mean()
    assert abs(crossed - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 400_000)


def test_thirty_looks_spend_everything_at_the_last() -> None:
    fractions = [look / 30 for look in range(1, 31)]
    found = boundaries(fractions, totals(fractions))
    random = np.random.default_rng(2)
    sums = np.cumsum(random.standard_normal((200_000, 30)), axis=1)
    crossed = (np.abs(sums) >= found * np.sqrt(np.arange(1, 31))).any(axis=1).mean()
    assert abs(crossed - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 200_000)
    assert all(earlier > later for earlier, later in itertools.pairwise(found))


def test_a_last_look_before_the_planned_end_spends_the_rest() -> None:
    early = boundaries([0.5, 0.8], [spent(0.05, 0.5), 0.05])
    planned = boundaries([0.5, 0.8], totals([0.5, 0.8]))
    assert early[0] == planned[0]
    assert early[1] < planned[1]


def test_a_look_with_nothing_to_spend_has_no_boundary() -> None:
    assert boundaries([0.5, 0.8], [0.02, 0.02])[1] == math.inf
    assert boundaries([0.001, 1.0], totals([0.001, 1.0])) == pytest.approx([math.inf, 1.95996], abs=1e-4)


def test_what_was_spent_stays_spent_when_the_fraction_goes_back() -> None:
    information, going_back, staying = [1.0, 2.0, 3.0], [0.02, 0.01, 0.05], [0.02, 0.02, 0.05]
    assert boundaries(information, going_back) == boundaries(information, staying)
    assert p_value(2.2, information, [0.9, 0.4, 1.0]) == p_value(2.2, information, [0.9, 0.9, 1.0])


@pytest.mark.parametrize("information", [2.0, 1.0, 2.001, 0.0, -1.0, math.nan, math.inf])
def test_information_must_grow(information: float) -> None:
    """Looks at almost the same information would need more nodes than memory holds."""
    path = Path().passed(2.0, 3.0, 0.01)
    with pytest.raises(ValueError, match=rf"information = {information}: expected at least 1\.001 times the 2 of"):
        path.boundary(information, 0.05)
    with pytest.raises(ValueError, match="information = "):
        p_value(1.0, [2.0, information], [0.5, 1.0])


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, math.nan])
def test_impossible_levels_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha = {alpha}"):
        spent(alpha, 0.5)
    with pytest.raises(ValueError, match="total = "):
        Path().boundary(1.0, 2.0 * alpha - 1.0)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="fraction = nan"):
        spent(0.05, math.nan)
    with pytest.raises(ValueError, match="z = nan"):
        p_value(math.nan, [1.0], [1.0])


def test_the_p_value_of_one_look_is_that_of_the_normal_test() -> None:
    for z in (0.3, 1.9, -2.5, 6.0):
        assert p_value(z, [3.0], [1.0]) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-5)


def test_the_p_value_equals_alpha_on_the_boundary_and_falls_beyond_it() -> None:
    fractions = [0.3, 0.7, 1.0]
    for count in (2, 3):
        bound = boundaries(fractions[:count], totals(fractions[:count]))[-1]
        assert p_value(bound, fractions[:count], fractions[:count]) == pytest.approx(0.05, rel=1e-5)
        assert p_value(bound + 0.1, fractions[:count], fractions[:count]) < 0.05
        assert p_value(bound - 0.1, fractions[:count], fractions[:count]) > 0.05
    assert p_value(0.0, fractions, fractions) == 1.0
    assert 0.0 < p_value(60.0, fractions, fractions) < 1e-290
