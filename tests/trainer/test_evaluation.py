"""Ranking metrics against brute force and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from tests.trainer.evaluation import (
    ScoredList,
    auc,
    calibration,
    evaluate,
    list_metrics,
    list_softmax,
    log_loss,
    ndcg,
    observed_value,
    order,
    paired_bootstrap,
    reciprocal_rank,
    tie_keys,
)

Floats = NDArray[np.float64]

labels = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.booleans()), min_size=1, max_size=12)


def scored(
    query_id: str,
    score: list[float],
    positive: list[int],
    *,
    grade: list[float] | None = None,
    visit: str = "",
    weight: float = 1.0,
) -> ScoredList:
    return ScoredList(
        query_id=query_id,
        item_ids=[f"i{row}" for row in range(len(score))],
        score=np.array(score, dtype=np.float64),
        positive=np.array(positive, dtype=np.bool_),
        visit=visit,
        grade=None if grade is None else np.array(grade, dtype=np.float64),
        weight=weight,
    )


@given(labels)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[float, bool]]) -> None:
    score, positive = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    pairs = list(itertools.product(score[positive], score[~positive]))
    if not pairs:
        assert auc(score, positive) is None
        return
    brute = sum((high > low) + 0.5 * (high == low) for high, low in pairs) / len(pairs)
    statistic = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    assert auc(score, positive) == pytest.approx(brute)
    assert auc(score, positive) == pytest.approx(statistic / len(pairs))


@given(labels)
def test_log_loss_equals_scipy(rows: list[tuple[float, bool]]) -> None:
    score, positive = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    if not positive.any():
        assert log_loss(score, positive) is None
        return
    target = positive / positive.sum()
    assert log_loss(score, positive) == pytest.approx(-(target * special.log_softmax(score)).sum())
    assert list_softmax(score) == pytest.approx(special.softmax(score))


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=6), st.integers(1, 7))
def test_ndcg_divides_by_the_best_order_there_is(grades: list[float], k: int) -> None:
    def gain(column: tuple[float, ...]) -> float:
        return float(sum((2**grade - 1) / np.log2(row + 2) for row, grade in enumerate(column[:k])))

    best = max(gain(column) for column in itertools.permutations(grades))
    value = ndcg(np.array(grades), k)
    assert value is None if best == 0 else value == pytest.approx(gain(tuple(grades)) / best)


def test_reciprocal_rank_counts_the_first_positive() -> None:
    assert reciprocal_rank(np.array([False, False, True, True])) == pytest.approx(1 / 3)
    assert reciprocal_rank(np.array([False])) is None


def test_order_is_by_score_then_by_the_hash_of_query_and_item() -> None:
    ids = ["a", "b", "c", "d"]
    assert order("q", ids, np.array([1.0, 4.0, 2.0, 3.0])).tolist() == [1, 3, 2, 0]
    score = np.array([1.0, 5.0, 1.0, 1.0])
    keys = tie_keys("q", ids, 0)
    expected = [1, *sorted([0, 2, 3], key=lambda row: int(keys[row]))]
    assert order("q", ids, score).tolist() == expected
    # Another order of the same rows leaves the items in the same order.
    shuffled = [3, 1, 0, 2]
    again = order("q", [ids[row] for row in shuffled], score[shuffled])
    assert [shuffled[row] for row in again] == expected


def test_tie_keys_are_pinned_and_depend_on_query_item_and_seed() -> None:
    assert tie_keys("q", ["a", "b"], 0).tolist() == [12546329783691035980, 9296346192945066294]
    assert len({int(tie_keys(query, [name], seed)[0]) for query in "pq" for name in "ab" for seed in (0, 1)}) == 8


def test_constant_scores_rank_at_random() -> None:
    lists = [scored(f"q{row}", [0.0] * 20, [1] + [0] * 19) for row in range(2_000)]
    report = evaluate(lists)
    expected = np.mean(1 / np.arange(1, 21))
    deviation = np.std(1 / np.arange(1, 21)) / np.sqrt(2_000)
    assert report.mrr is not None
    assert abs(report.mrr - expected) < 4 * deviation
    assert report.gauc == 0.5
    # One positive in 20 at equal chance.
    assert report.log_loss == pytest.approx(np.log(20))


def test_report_by_hand() -> None:
    report = evaluate(
        [
            scored("a", [3, 2, 1], [0, 1, 0], weight=3),
            scored("b", [1, 5], [0, 1]),
            scored("c", [1, 2], [0, 0]),
            scored("d", [1], [1]),
        ]
    )
    assert (report.num_lists, report.num_without_positive, report.num_one_class) == (4, 1, 2)
    assert report.gauc == pytest.approx((0.5 + 1) / 2)
    assert report.gauc_weighted == pytest.approx((3 * 0.5 + 1) / 4)
    assert report.mrr == pytest.approx((0.5 + 1 + 1) / 3)
    assert report.ndcg_5 == pytest.approx((1 / np.log2(3) + 1 + 1) / 3)


def test_pooled_auc_stands_on_probabilities_not_on_logits() -> None:
    lists = [scored("a", [10.0, 11.0], [0, 1]), scored("b", [0.0, 1.0], [0, 1])]
    # Raw logits would put the loser of the first list above the winner of the second.
    assert evaluate(lists).pooled_auc == 1
    metrics = list_metrics([*lists, scored("c", [9.0, 1.0], [0, 0])])
    assert metrics.probability.size == 4


def test_grades_replace_the_positive_in_ndcg() -> None:
    report = evaluate([scored("a", [3, 2, 1], [1, 0, 0], grade=[1, 3, 0])])
    ideal = 7 + 1 / np.log2(3)
    assert report.ndcg_10 == pytest.approx((1 + 7 / np.log2(3)) / ideal)


def test_nothing_is_undefined_not_zero() -> None:
    report = evaluate([])
    assert report.gauc is report.gauc_weighted is report.mrr is report.ndcg_5 is report.pooled_auc is None
    assert report.log_loss is None
    assert report.num_lists == 0


def test_lists_of_wrong_shape_or_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="3 items"):
        ScoredList(query_id="q", item_ids=["a", "b", "c"], score=np.zeros(2), positive=np.zeros(3, dtype=np.bool_))
    with pytest.raises(ValueError, match="not finite"):
        scored("q", [float("nan")], [1])


def test_bootstrap_interval_covers_and_draws_whole_visits() -> None:
    rng = np.random.default_rng(5)
    effect = rng.normal(0.1, 1, size=400)
    visit = [f"v{row}" for row in range(400)]
    interval = paired_bootstrap(effect, np.zeros(400), visit)
    standard_error = effect.std(ddof=1) / 20
    assert interval.difference == pytest.approx(effect.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    # Four copies of each visit hold no more evidence.
    copies = paired_bootstrap(np.repeat(effect, 4), np.zeros(1_600), [name for name in visit for _ in range(4)])
    assert copies.num_visits == 400
    assert copies.high - copies.low == pytest.approx(interval.high - interval.low, rel=0.1)


def test_bootstrap_equals_brute_force_over_visits() -> None:
    new, old = np.array([1.0, 0.0, np.nan, 0.5]), np.array([0.0, 0.5, 1.0, 0.5])
    visit = ["a", "a", "b", "c"]
    interval = paired_bootstrap(new, old, visit, resamples=3_000, seed=2)
    # Visit a holds the differences 1 and -.5, visit c holds 0, visit b is undefined.
    possible = {0.5 / 2, 0.5 / 3, 0.0}
    assert interval.difference == pytest.approx(0.5 / 3)
    assert interval.num_visits == 2
    assert {round(interval.low, 9), round(interval.high, 9)} <= {round(value, 9) for value in possible}
    assert paired_bootstrap(new, old, visit, seed=2) == paired_bootstrap(new, old, visit, seed=2)


def test_bootstrap_refuses_columns_that_do_not_fit_or_say_nothing() -> None:
    with pytest.raises(ValueError, match="equal columns"):
        paired_bootstrap(np.zeros(2), np.zeros(3), ["a", "b"])
    with pytest.raises(ValueError, match="no list"):
        paired_bootstrap(np.array([np.nan]), np.zeros(1), ["a"])


def test_observed_value_sums_money_at_the_top() -> None:
    lists = [scored("a", [3, 2, 1], [0, 1, 0]), scored("b", [1, 5], [1, 0])]
    money = [np.array([0.0, 700.0, 50.0]), np.array([300.0, 0.0])]
    assert observed_value(lists, money, 1) == 0
    assert observed_value(lists, money, 2) == 500
    with pytest.raises(ValueError, match="one column"):
        observed_value(lists, money[:1], 2)


def test_calibration_by_hand() -> None:
    probability = np.array([0.1, 0.2, 0.7, 0.8])
    positive = np.array([False, True, True, True])
    found = calibration(probability, positive, bins=2)
    assert found.ratio == pytest.approx(1.8 / 3)
    assert found.ece == pytest.approx((abs(0.15 - 0.5) + abs(0.75 - 1)) / 2)
    assert calibration(probability, np.zeros(4, dtype=np.bool_)).ratio is None
    with pytest.raises(ValueError, match="not empty"):
        calibration(np.empty(0), np.empty(0, dtype=np.bool_))


def test_true_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(1)
    probability = rng.uniform(0, 1, size=20_000)
    found = calibration(probability, rng.uniform(size=20_000) < probability)
    assert found.ratio == pytest.approx(1, abs=0.03)
    assert found.ece < 0.02
