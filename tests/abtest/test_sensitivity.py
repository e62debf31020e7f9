"""Power, smallest effect and exaggeration ratio of a test."""

import math
from collections.abc import Callable

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


@pytest.mark.parametrize("function", [power, exaggeration_ratio, lambda _, se, alpha: smallest_effect(se, alpha)])
@pytest.mark.parametrize(
    ("se", "alpha", "named"),
    [
        (0.0, 0.05, "se = 0"),
        (-1.0, 0.05, "se = -1"),
        (math.nan, 0.05, "se = nan"),
        (math.inf, 0.05, "se = inf"),
        (1.0, 0.0, "alpha = 0"),
        (1.0, 1.0, "alpha = 1"),
        (1.0, math.nan, "alpha = nan"),
    ],
)
def test_impossible_errors_and_levels_are_refused(
    function: Callable[[float, float, float], float], se: float, alpha: float, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        function(0.1, se, alpha)


def test_effects_without_a_power_are_refused() -> None:
    for effect in (math.nan, math.inf):
        with pytest.raises(ValueError, match="effect = "):
            power(effect, 1.0, 0.05)
    with pytest.raises(ValueError, match="effect = 0"):
        exaggeration_ratio(0.0, 1.0, 0.05)
