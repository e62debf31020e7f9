import numpy as np
import pytest
from scipy import stats

from abtest.srm import sample_ratio


def test_equals_scipy() -> None:
    found = sample_ratio([520, 480, 1_000], [0.25, 0.25, 0.5])
    assert found.p == pytest.approx(stats.chisquare([520, 480, 1_000], [500, 500, 1_000]).pvalue)
    assert found.expected == (500.0, 500.0, 1_000.0)


def test_an_arm_of_weight_zero_is_no_degree_of_freedom() -> None:
    found = sample_ratio([520, 480, 0], [0.5, 0.5, 0.0])
    assert found.p == pytest.approx(stats.chisquare([520, 480]).pvalue)


def test_clients_in_an_arm_of_weight_zero_block() -> None:
    found = sample_ratio([520, 480, 3], [0.5, 0.5, 0.0])
    assert (found.status, found.reason) == ("blocked", "3 clients in arms of weight zero")


@pytest.mark.parametrize(
    ("observed", "status"), [([5_060, 4_940], "ok"), ([5_165, 4_835], "alert"), ([5_200, 4_800], "blocked")]
)
def test_statuses(observed: list[int], status: str) -> None:
    assert sample_ratio(observed, [0.5, 0.5]).status == status


def test_half_a_percent_is_found_in_a_million_clients() -> None:
    assert sample_ratio([495_000, 505_000], [0.5, 0.5]).status == "blocked"


def test_few_clients_are_undefined() -> None:
    found = sample_ratio([3, 5], [0.5, 0.5])
    assert (found.status, found.p) == ("undefined", None)
    assert sample_ratio([], []).status == "undefined"


def test_alarms_are_rare_when_nothing_is_wrong() -> None:
    random = np.random.default_rng(9)
    splits = random.multinomial(10_000, [0.3, 0.7], size=2_000)
    p_values = [sample_ratio([int(n) for n in split], [0.3, 0.7]).p for split in splits]
    alarms = sum(p < 0.01 for p in p_values if p is not None)
    assert stats.binomtest(alarms, len(splits), 0.01).pvalue > 0.001


def test_numbers_of_arms_must_agree() -> None:
    with pytest.raises(ValueError, match="one weight for each arm"):
        sample_ratio([1, 2], [1.0])
