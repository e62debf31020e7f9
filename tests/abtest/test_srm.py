import math

import numpy as np
import pytest
from scipy import stats

from abtest.sequential_srm import log_evidence
from abtest.srm import sample_ratio, status_of, stratified, worst_cut


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


def fair(random: np.random.Generator, days: int, clients: int = 400) -> list[tuple[list[int], list[float]]]:
    """Return days of clients whose shares differ between the days."""
    shares = [[0.5, 0.3, 0.2] if day % 2 else [0.8, 0.1, 0.1] for day in range(days)]
    return [([int(n) for n in random.multinomial(clients, share)], share) for share in shares]


def test_strata_of_two_arms_equal_the_normal_test_of_their_sum() -> None:
    found = stratified([([120, 80], [1, 1]), ([700, 250], [3, 1])])
    difference = 120 - 100 + 700 - 0.75 * 950
    z = difference / np.sqrt(200 * 0.25 + 950 * 0.75 * 0.25)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert found.expected == (812.5, 337.5)


def test_strata_hold_their_level_where_the_sum_of_their_counts_does_not() -> None:
    """One multinomial of all strata has too large a variance, so that its test would almost never warn."""
    random = np.random.default_rng(4)
    runs = [
        [([int(first), 1_000 - int(first)], [0.95, 0.05]), ([int(second), 1_000 - int(second)], [0.05, 0.95])]
        for first, second in random.binomial(1_000, [0.95, 0.05], (1_200, 2))
    ]
    alarms = sum((stratified(strata).p or 0.0) < 0.05 for strata in runs)
    assert stats.binomtest(alarms, len(runs), 0.05).pvalue > 0.001
    pooled = sum(stats.chisquare(np.sum([o for o, _ in strata], axis=0)).pvalue < 0.05 for strata in runs)
    assert pooled == 0


def test_arms_of_one_stratum_only_lose_no_degree_of_freedom() -> None:
    found = stratified([([55, 45, 0, 0], [1, 1, 0, 0]), ([0, 0, 230, 170], [0, 0, 1, 1])])
    separate = [stats.chisquare(counts).statistic for counts in ([55, 45], [230, 170])]
    assert found.stat == pytest.approx(sum(separate))
    assert found.p == pytest.approx(stats.chi2.sf(sum(separate), 2))


def test_parts_of_opposite_sign_hide_in_the_whole_and_not_from_each_other() -> None:
    days = {"Monday": [([600, 400], [1, 1])], "Tuesday": [([400, 600], [1, 1])], "Wednesday": [([505, 495], [1, 1])]}
    assert (stratified([day[0] for day in days.values()]).p or 0.0) > 0.5
    worst = worst_cut(days)
    assert worst is not None
    assert worst.label in {"Monday", "Tuesday"}
    assert worst.p == pytest.approx(3 * stats.chisquare([600, 400]).pvalue)
    assert status_of(worst.p) == "blocked"


def test_many_parts_raise_no_more_alarms_than_one() -> None:
    random = np.random.default_rng(5)
    runs = [{str(at): [day] for at, day in enumerate(fair(random, 20))} for _ in range(250)]
    found = [worst_cut(run) for run in runs]
    alarms = sum(worst is not None and worst.p < 0.05 for worst in found)
    assert stats.binomtest(alarms, len(runs), 0.05, alternative="greater").pvalue > 0.001
    unadjusted = sum(worst is not None and (worst.ratio.p or 0.0) < 0.05 for worst in found)
    assert unadjusted > 0.5 * len(runs)


def test_a_part_of_few_clients_is_counted_and_not_tested() -> None:
    parts = {"a": [([60, 40], [1, 1])], "b": [([50, 50], [1, 1])], "c": [([3, 0], [1, 1])]}
    worst = worst_cut(parts)
    assert worst is not None
    assert (worst.label, worst.tested, worst.untested) == ("a", 2, 1)
    assert worst_cut({"a": parts["a"], "c": parts["c"]}) is None


@pytest.mark.parametrize("observed", [[-1, 5], [math.nan, 5], [math.inf, 5], [0.5, 5]])
def test_what_is_no_number_of_clients_is_refused(observed: list[int]) -> None:
    for test in (stratified, log_evidence):
        with pytest.raises(ValueError, match=r"observed = .*: expected whole numbers"):
            test([(observed, [1.0, 1.0])])


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_what_is_no_weight_is_refused(weight: float) -> None:
    for test in (stratified, log_evidence):
        with pytest.raises(ValueError, match=r"weights = .*: expected weights of 0 or more"):
            test([([5, 5], [1.0, weight])])


@pytest.mark.parametrize("size", [1e308, 1e-308])
def test_weights_of_any_size_are_shares(size: float) -> None:
    assert sample_ratio([520, 480], [size, size]).p == sample_ratio([520, 480], [1.0, 1.0]).p
    assert log_evidence([([520, 480], [size, size])]) == log_evidence([([520, 480], [1.0, 1.0])])
