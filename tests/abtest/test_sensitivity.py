"""Power, smallest effect and exaggeration ratio of a test."""

import numpy as np
import pytest

from abtest.sensitivity import exaggeration_ratio, power, smallest_effect


def test_power_and_smallest_effect_are_inverses() -> None:
    effect = smallest_effect(0.2, 0.05)
    assert power(effect, 0.2, 0.05) == pytest.approx(0.8, abs=1e-4)


def test_exaggeration_equals_simulation() -> None:
    draws = np.random.default_rng(8).normal(0.11, 0.109, 2_000_000)
    significant = np.abs(draws) > 1.959964 * 0.109
    simulated = np.abs(draws[significant]).mean() / 0.11
    assert exaggeration_ratio(0.11, 0.109, 0.05) == pytest.approx(simulated, rel=5e-3)
