"""The paired bootstrap against brute force and the normal approximation."""

import numpy as np
import pytest

from trainer.evaluation.intervals import paired_bootstrap, resampled_ratios


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


def test_ratios_of_resampled_sums_spread_as_the_delta_method_says() -> None:
    rng = np.random.default_rng(7)
    bottom = rng.uniform(1, 3, size=300)
    top = 2 * bottom + rng.normal(size=300)
    ratios = resampled_ratios(top, bottom, resamples=2_000)
    error = (top - top.sum() / bottom.sum() * bottom).std() / (np.sqrt(300) * bottom.mean())
    assert ratios.mean() == pytest.approx(top.sum() / bottom.sum(), abs=error / 5)
    assert ratios.std() == pytest.approx(error, rel=0.1)
    assert resampled_ratios(3 * bottom, bottom, resamples=10) == pytest.approx(3.0)
