"""Ranking metrics against brute force and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from trainer.evaluation.metrics import (
    list_auc,
    log_loss,
    log_probabilities,
    ndcg,
    pooled_auc,
    ranks,
    reciprocal_rank,
    tie_keys,
    value_at,
)

Floats = NDArray[np.float64]

SCORES = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
labels = st.lists(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=12), min_size=1, max_size=4)


def padded(rows: list[list[float]], fill: float = np.nan) -> Floats:
    """Rows of one length; the padding is NaN, which must change nothing."""
    width = max(map(len, rows)) + 1
    return np.array([row + [fill] * (width - len(row)) for row in rows])


def lists(rows: list[list[tuple[float, bool]]]) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    score = padded([[value for value, _ in row] for row in rows])
    positive = padded([[float(flag) for _, flag in row] for row in rows], fill=1.0) > 0
    return score, positive, ~np.isnan(score)


def one(values: list[float]) -> tuple[Floats, NDArray[np.bool_]]:
    return np.array([values]), np.ones((1, len(values)), dtype=np.bool_)


@given(labels)
def test_auc_is_the_share_of_pairs_in_order(rows: list[list[tuple[float, bool]]]) -> None:
    score, positive, mask = lists(rows)
    found = list_auc(ranks(score, mask), positive, mask)
    for value, row in zip(found, rows, strict=True):
        high, low = [s for s, flag in row if flag], [s for s, flag in row if not flag]
        if not high or not low:
            assert np.isnan(value)
            continue
        pairs = list(itertools.product(high, low))
        brute = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
        assert value == pytest.approx(brute)
        assert value == pytest.approx(stats.mannwhitneyu(high, low).statistic / len(pairs))
        assert pooled_auc(np.array(high + low), np.array([True] * len(high) + [False] * len(low))) == pytest.approx(
            brute
        )


@given(labels)
def test_average_ranks_equal_scipy(rows: list[list[tuple[float, bool]]]) -> None:
    score, _, mask = lists(rows)
    for found, real, row in zip(ranks(score, mask), mask, rows, strict=True):
        assert found[real] == pytest.approx(stats.rankdata([-value for value, _ in row]))
        assert not found[~real].any()


@given(labels)
def test_log_loss_and_probabilities_equal_scipy(rows: list[list[tuple[float, bool]]]) -> None:
    score, positive, mask = lists(rows)
    found, logs = log_loss(score, positive, mask), log_probabilities(score, mask)
    for value, own, row in zip(found, logs, rows, strict=True):
        target = np.array([flag for _, flag in row])
        expected = special.log_softmax([s for s, _ in row])
        assert own[: len(row)] == pytest.approx(expected)
        assert np.exp(own[len(row) :]).sum() == 0
        if target.any():
            assert value == pytest.approx(-(target / target.sum() * expected).sum())
        else:
            assert np.isnan(value)


def test_weights_of_labels_multiply_the_terms_of_log_loss() -> None:
    score, positive = np.array([[0.0, 1.0, 3.0]]), np.array([[True, False, True]])
    logs = special.log_softmax(score[0])
    found = log_loss(score, positive, np.ones((1, 3), np.bool_), np.array([[5.0, 7.0, 1.0]]))
    assert found == pytest.approx([-(5 * logs[0] + logs[2]) / 2])


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=6), st.integers(1, 7))
def test_ndcg_divides_by_the_best_order_there_is(grades: list[float], k: int) -> None:
    def gain(column: tuple[float, ...]) -> float:
        return float(sum((2**grade - 1) / np.log2(row + 2) for row, grade in enumerate(column[:k])))

    best = max(gain(column) for column in itertools.permutations(grades))
    rank = padded([[float(row + 1) for row in range(len(grades))]])
    value = ndcg(rank, padded([grades]), ~np.isnan(rank), k)[0]
    if best == 0:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(gain(tuple(grades)) / best)


def test_grades_below_zero_are_no_gain() -> None:
    rank, mask = one([1.0, 2.0])
    assert np.isnan(ndcg(rank, np.array([[-1.0, -2.0]]), mask, 5)[0])
    assert ndcg(rank, np.array([[-1.0, 1.0]]), mask, 5)[0] == pytest.approx(1 / np.log2(3))


def test_reciprocal_rank_counts_the_first_positive() -> None:
    rank, mask = one([3.0, 4.0, 1.0, 2.0])
    assert reciprocal_rank(rank, np.array([[True, True, False, False]]), mask)[0] == pytest.approx(1 / 3)
    assert np.isnan(reciprocal_rank(rank, np.zeros((1, 4), dtype=np.bool_), mask)[0])


def test_values_are_summed_over_the_first_ranks() -> None:
    rank, mask = one([2.0, 3.0, 1.0])
    assert value_at(rank, np.array([[700.0, 50.0, 0.0]]), mask, 1).tolist() == [0.0]
    assert value_at(rank, np.array([[700.0, 50.0, 0.0]]), mask, 2).tolist() == [700.0]
    assert value_at(rank, np.array([[700.0, 50.0, 9.0]]), np.array([[True, True, False]]), 9).tolist() == [750.0]


def test_equal_scores_are_ordered_by_the_keys_of_query_and_item() -> None:
    ids = ["a", "b", "c", "d"]
    keys = tie_keys("q", ids, 0)
    expected = ["b", *sorted("acd", key=lambda name: int(keys[ids.index(name)]))]
    for order in itertools.permutations(range(4)):
        names = [ids[row] for row in order]
        score, mask = one([5.0 if name == "b" else 1.0 for name in names])
        rank = ranks(score, mask, tie_keys("q", names, 0)[None, :])[0]
        assert [names[row] for row in np.argsort(rank)] == expected
        assert sorted(rank.tolist()) == [1, 2, 3, 4]


def test_tie_keys_are_pinned_and_depend_on_query_item_and_seed() -> None:
    assert tie_keys("q", ["a", "b"], 0).tolist() == [12546329783691035980, 9296346192945066294]
    assert len({int(tie_keys(query, [name], seed)[0]) for query in "pq" for name in "ab" for seed in (0, 1)}) == 8


@pytest.mark.parametrize("ids", [[f"i{row}" for row in range(20)], ["same"] * 20, ["x", "y"] * 10])
def test_constant_scores_rank_at_random_also_with_repeated_items(ids: list[str]) -> None:
    tie = np.stack([tie_keys(f"q{number}", ids, 0) for number in range(2_000)])
    mask = np.ones(tie.shape, dtype=np.bool_)
    positive = np.zeros(tie.shape, dtype=np.bool_)
    positive[:, 0] = True
    score = np.zeros(tie.shape)
    mrr = reciprocal_rank(ranks(score, mask, tie), positive, mask)
    chance = 1 / np.arange(1, 21)
    assert abs(mrr.mean() - chance.mean()) < 4 * chance.std() / np.sqrt(2_000)
    assert set(list_auc(ranks(score, mask), positive, mask)) == {0.5}
    assert log_loss(score, positive, mask) == pytest.approx(np.log(20))


def test_pooled_auc_needs_both_classes() -> None:
    assert pooled_auc(np.array([1.0, 2.0]), np.array([True, True])) is None
    assert pooled_auc(np.empty(0), np.empty(0, dtype=np.bool_)) is None
