from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from deploy.simulation.marketplace.settings import MarketplaceSettings
from stream.errors import ConfigError
from tests.harness.simulated_shop import SimulatedShop
from tests.trainer.examination.logs import THETA, drawn, rows
from trainer.examination.estimate import MIN_EFFECTIVE_CLICKS, estimate
from trainer.examination.observations import Observations, observe


@pytest.mark.no_cover
@pytest.mark.parametrize(("num_lists", "swap_share"), [(2_000, None), (5_000, 0.7)])
def test_intervals_hold_the_true_curve_as_often_as_they_claim(num_lists: int, swap_share: float | None) -> None:
    """Over 20 logs, each of the five free positions; about 95 % with a binomial error of 2.2 points."""
    held = []
    for seed in range(20):
        curve = estimate(drawn(seed, num_lists, swap_share=swap_share), "swaps", data="log", resamples=100, seed=seed)
        assert [each.first for each in curve.positions] == [1, 2, 3, 4, 5, 6]
        held += [each.low <= true <= each.high for each, true in zip(curve.positions[1:], THETA[1:], strict=True)]
    assert 0.87 <= np.mean(held) <= 0.99


@pytest.mark.slow
def test_the_simulated_shop_gives_its_curve_back() -> None:
    """The truth is the attention that the simulated shoppers follow; they also feel their neighbours' prices."""
    settings = MarketplaceSettings(seed=4, hours=12.0, clients=2_000, items=400, categories=4, candidates=12)
    shop = SimulatedShop(settings)
    rng = np.random.default_rng(1)
    sessions = [
        shop.show(listing, rng.permutation(12), np.full(12, 1 / 12)) for listing in islice(shop.listings(), 3_000)
    ]
    attention = np.arange(1, 13) ** -settings.eta / settings.first_slot
    attention[0] = 1.0
    curve = estimate(observe(sessions, "shuffle"), "shuffle", data="shop", resamples=200)
    held = [each.low <= attention[each.first - 1 : each.last].mean() <= each.high for each in curve.positions[1:]]
    assert len(held) >= 8
    assert np.mean(held) >= 0.8
    by_items = estimate(observe(sessions, "em"), "em", data="shop", resamples=20)
    np.testing.assert_allclose(by_items.values()[:4], curve.values()[:4], rtol=0.15)


def test_positions_share_an_estimate_until_each_has_enough_clicks() -> None:
    curve = estimate(drawn(0, 500), "shuffle", data="log", resamples=100)
    assert len(curve.positions) < len(THETA)
    assert curve.positions[-1].last == len(THETA)
    assert min(each.effective_clicks or 0.0 for each in curve.positions) >= MIN_EFFECTIVE_CLICKS
    assert len(curve.values()) == len(THETA)


def test_where_neighbours_alone_change_places_the_curve_ends_with_their_clicks() -> None:
    """A wide group would take the examination of its near end for all."""
    curve = estimate(drawn(0, 5_000, swap_share=0.2, reach=1), "swaps", data="log", resamples=100)
    wide = curve.positions[-1]
    assert wide.last - wide.first <= 1
    assert curve.num_beyond == len(THETA) - wide.last > 0
    full = estimate(drawn(0, 60_000, swap_share=0.5, reach=1), "swaps", data="log", resamples=100)
    assert full.num_beyond == 0
    np.testing.assert_allclose(full.values(), THETA, rtol=0.2)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (drawn(0, 40), r"examination by shuffle: \d+ visits with a click in 40 lists: expected at least 50"),
        (drawn(0, 150), r"at most [\d.]+ effective clicks at a position, from \d+ clicks in 150 lists: expected at"),
        (
            replace(drawn(0, 10, swap_share=0.0), num_lists=0, left_out={"without propensities": 7}),
            "no list that it can use: 7 without propensities",
        ),
    ],
)
def test_too_little_is_refused_by_name_and_number(found: Observations, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimate(found, "shuffle", data="log")


def test_positions_that_no_item_connects_are_refused() -> None:
    """Pairs 1-2 and 3-4 change places among themselves only."""
    rng = np.random.default_rng(0)
    swapped = rng.random((4_000, 2)) < 0.5
    first = np.where(swapped[:, :1], [[1, 0]], [[0, 1]])
    second = np.where(swapped[:, 1:], [[3, 2]], [[2, 3]])
    found = rows(np.concatenate([first, second], axis=1), rng.random((4_000, 4)) < 0.2)
    with pytest.raises(ConfigError, match="no item connects 2 sets of positions: 1, 2; 3, 4"):
        estimate(found, "swaps", data="log")


def test_the_same_seed_gives_the_same_curve() -> None:
    first, again, other = (
        estimate(drawn(0, 2_000), "shuffle", data="log", resamples=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.values() == other.values()
    assert first != other
