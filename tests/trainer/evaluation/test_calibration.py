import numpy as np
import pytest

from trainer.evaluation.calibration import calibration


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
