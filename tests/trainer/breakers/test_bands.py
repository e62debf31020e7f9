import math

import numpy as np
import pytest

from trainer.breakers.bands import BandLimits, Count, Finding, Kind, find, is_outside, on_scale

LIMITS = BandLimits(sigma=6.0, ratio=3.0, rise=0.4, loss=2.0, lists=50, windows=8)


def test_a_share_of_nothing_lies_as_many_deviations_off_as_the_arcsine_says() -> None:
    # Past 1/4: asin(sqrt(1/4)) = pi/6. Without a hit in 900 trials: z = (0 - pi/6) * 2 * sqrt(900) = -10 pi.
    found = find("label", Count(0, 900, 60), [math.pi / 6] * 8, 7)
    assert found == pytest.approx(Finding(0.0, 0.25, -10 * math.pi, 60, 7))


def test_a_past_that_varies_widens_the_band() -> None:
    # Median .5, deviations 0, .1, .1, .2, .2: their median .1 makes a standard deviation of .14826.
    found = find("label", Count(0, 10_000, 700), [0.3, 0.4, 0.5, 0.6, 0.7], 0)
    assert found.z == pytest.approx(-0.5 / 0.14826)


def test_features_count_by_lists_since_all_items_of_a_list_may_lack_one() -> None:
    found = find("null", Count(900, 900, 25), [0.0] * 8, 0)
    assert found.z == pytest.approx(math.pi / 2 * 2 * 5)


def test_a_loss_is_compared_by_the_spread_of_the_past_and_at_least_a_twentieth_of_it() -> None:
    assert find("loss", Count(8, 4, 4), [1.0] * 8, 0) == pytest.approx(Finding(2.0, 1.0, 20.0, 4, 0))
    # Median 1, deviations 0, .2, .2, .4, .4.
    assert find("loss", Count(8, 4, 4), [0.6, 0.8, 1.0, 1.2, 1.4], 0).z == pytest.approx(1 / (0.2 * 1.4826))


def test_one_odd_window_moves_the_past_by_nothing() -> None:
    past = [0.2] * 9
    assert find("label", Count(50, 900, 60), [*past, 1.5], 0).z == find("label", Count(50, 900, 60), past, 0).z


@pytest.mark.parametrize(
    ("kind", "value", "expected", "z", "outside"),
    [
        ("label", 0.0, 0.05, -7.0, True),
        ("label", 0.0, 0.05, -5.0, False),
        ("label", 0.04, 0.05, -7.0, False),
        ("label", 0.95, 0.6, 9.0, True),
        ("label", 1.0, 0.6, 9.0, True),
        ("label", 0.0009, 0.0, 9.0, False),
        ("null", 1.0, 0.5, 9.0, True),
        ("null", 0.0, 1.0, -9.0, False),
        ("null", 0.3, 0.0, 9.0, False),
        ("loss", 4.6, 2.2, 7.0, True),
        ("loss", 4.0, 2.2, 7.0, False),
        ("loss", 0.1, 2.2, -20.0, False),
    ],
)
def test_a_measure_is_outside_if_it_is_far_off_and_surely_so(
    kind: Kind, value: float, expected: float, z: float, outside: bool
) -> None:
    assert is_outside(kind, Finding(value, expected, z, 100, 0), LIMITS) is outside


@pytest.mark.parametrize("rate", [0.002, 0.03, 0.5])
def test_rates_that_stay_the_same_trip_nothing(rate: float) -> None:
    rng = np.random.default_rng(5)
    # 20 logs of 200 windows. A rate of a window wanders by a quarter of itself.
    for _ in range(20):
        trials = 900
        shares = np.clip(rate * rng.lognormal(sigma=0.25, size=200), 0, 0.9)
        counts = [Count(float(each), trials, 60) for each in rng.binomial(trials, shares)]
        past = [on_scale("label", each) for each in counts[:60]]
        assert not any(is_outside("label", find("label", each, past, 0), LIMITS) for each in counts[60:])


def test_without_a_past_there_is_no_band() -> None:
    found = find("label", Count(1, 10, 5), [], 3)
    assert math.isnan(found.expected)
    assert found.z == 0
