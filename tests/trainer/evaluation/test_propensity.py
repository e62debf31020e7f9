"""The value of another order against the exact expectation over all orders that a log could have shown."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.evaluation.propensity import MIN_EFFECTIVE_PLACES, PolicyValue, is_randomised, policy_value

Floats = NDArray[np.float64]

EXAMINED = np.array([1.0, 0.5, 0.3, 0.1])
RELEVANT = np.array([0.1, 0.2, 0.4, 0.8])
OTHER = np.array([4.0, 3.0, 2.0, 1.0])
"""Ranks of the items in the other order, which is best first."""


def estimate(shown: Floats, propensity: Floats, label: Floats, *, k: int = 4, seed: int = 0) -> PolicyValue:
    lists = len(shown)
    return policy_value(
        np.tile(OTHER, (lists, 1)),
        shown_BL=shown,
        propensity_BL=propensity,
        label_BL=label,
        mask_BL=np.ones(shown.shape, dtype=np.bool_),
        visit=[str(row) for row in range(lists)],
        k=k,
        resamples=200,
        seed=seed,
    )


def truth(k: int) -> float:
    return float(sum(EXAMINED[int(rank) - 1] * value for rank, value in zip(OTHER, RELEVANT, strict=True) if rank <= k))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_over_all_shuffles_the_estimate_is_the_true_number_of_clicks(k: int) -> None:
    shown = np.array(list(itertools.permutations([1.0, 2.0, 3.0, 4.0])) * 16)
    # Expected labels in place of drawn ones.
    label = EXAMINED[shown.astype(int) - 1] * RELEVANT
    found = estimate(shown, np.full(shown.shape, 0.25), label, k=k)
    assert found.mean == pytest.approx(truth(k))
    assert found.support == pytest.approx(1)


def test_rare_swaps_weigh_more_than_usual_places() -> None:
    # Of 10 lists, 9 are shown as usual and one with the first two items swapped; the other order swaps them, too.
    usual, swapped = [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.0, 4.0]
    shown = np.array(([usual] * 9 + [swapped]) * 20)
    propensity = np.where(shown == np.array(swapped), 0.1, 0.9)
    propensity[:, 2:] = 1.0
    label = EXAMINED[shown.astype(int) - 1] * RELEVANT
    found = policy_value(
        np.tile(swapped, (200, 1)),
        shown_BL=shown,
        propensity_BL=propensity,
        label_BL=label,
        mask_BL=np.ones(shown.shape, dtype=np.bool_),
        visit=[str(row) for row in range(200)],
        k=4,
    )
    assert found.mean == pytest.approx((EXAMINED[np.array(swapped, int) - 1] * RELEVANT).sum())
    assert found.support == pytest.approx(1)
    weights = np.array([10.0] * 20 * 2 + [1.0] * 200 * 2)
    assert found.effective_places == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_the_interval_covers_the_truth_of_drawn_clicks() -> None:
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shown = np.array([rng.permutation(4) + 1.0 for _ in range(400)])
        label = (rng.random(shown.shape) < EXAMINED[shown.astype(int) - 1] * RELEVANT).astype(np.float64)
        found = estimate(shown, np.full(shown.shape, 0.25), label, seed=seed)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth(4) <= found.high
    assert hits >= 34


def test_too_few_places_give_no_figure_but_their_number() -> None:
    shown = np.array([[1.0, 2.0, 3.0, 4.0]] * 3)
    found = estimate(shown, np.full(shown.shape, 0.25), np.ones(shown.shape))
    assert (found.mean, found.low, found.high) == (None, None, None)
    assert found.effective_places == 0 < MIN_EFFECTIVE_PLACES
    assert found.support == 0


def test_padding_and_impossible_chances() -> None:
    shown, chance = np.array([[1.0, 2.0]]), np.array([[0.5, 0.0]])
    mask = np.array([[True, False]])
    assert is_randomised(chance, mask)
    assert not is_randomised(np.ones((1, 2)), mask)
    policy_value(shown, shown_BL=shown, propensity_BL=chance, label_BL=shown, mask_BL=mask, visit=["v"], k=1)
    with pytest.raises(ValueError, match=r"expected values in \(0, 1\]"):
        policy_value(
            shown,
            shown_BL=shown,
            propensity_BL=chance,
            label_BL=shown,
            mask_BL=np.ones((1, 2), dtype=np.bool_),
            visit=["v"],
            k=1,
        )
