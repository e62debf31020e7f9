import numpy as np
import pytest

from trainer.evaluation.calibration import by_category, calibration


def test_calibration_by_hand() -> None:
    probability = np.array([0.1, 0.2, 0.7, 0.8])
    positive = np.array([False, True, True, True])
    found = calibration(probability, positive, bins=2)
    assert found.ratio == pytest.approx(1.8 / 3)
    assert [(each.num_items, each.observed) for each in found.bins] == [(2, 0.5), (2, 1.0)]
    assert [each.predicted for each in found.bins] == pytest.approx([0.15, 0.75])
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


def test_categories_are_those_with_most_lists_and_each_has_its_own_calibration() -> None:
    rng = np.random.default_rng(3)
    category = ["b"] * 30 + ["a"] * 50 + ["", "rare"] + ["b"] * 20
    probability = rng.random((102, 4))
    positive = rng.random((102, 4)) < probability
    mask = rng.random((102, 4)) < 0.9
    mask[:, 0] = True
    mask[80] = False
    found = by_category(probability, positive, mask, category, top=3)
    assert [(each.category, each.num_lists) for each in found] == [("a", 50), ("b", 50), ("rare", 1)]
    for each in found:
        rows = np.array([name == each.category for name in category])
        own = mask[rows]
        assert each.calibration == calibration(probability[rows][own], positive[rows][own])
