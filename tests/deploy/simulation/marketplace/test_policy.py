import numpy as np
import pytest

from deploy.simulation.marketplace.observables import Shelf
from deploy.simulation.marketplace.policy import LoggingPolicy
from deploy.simulation.marketplace.randomness import generator
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.world import World, draw

SETTINGS = MarketplaceSettings(seed=2, epsilon=0.2, chi=0.3)
WORLD = draw(SETTINGS)
POLICY = LoggingPolicy(WORLD, Shelf(WORLD))


def test_candidates_are_distinct_launched_items_of_the_category() -> None:
    found = POLICY.retrieve(25, SETTINGS.start_ts, generator(1))
    assert len(set(found.items.tolist())) == SETTINGS.candidates
    assert set(WORLD.items.category[found.items].tolist()) == {1}
    assert (WORLD.items.launch_ts[found.items] == 0).all()


def test_later_launches_become_candidates() -> None:
    end_ts = SETTINGS.start_ts + int(SETTINGS.hours * 3_600_000)
    found = [POLICY.retrieve(t, end_ts, generator(t, n)).items for t in range(20) for n in range(5)]
    assert (WORLD.items.launch_ts[np.concatenate(found)] > 0).any()


def test_propensities_are_the_frequencies_of_the_swaps() -> None:
    propensities = np.array([POLICY.retrieve(3, SETTINGS.start_ts, generator(n)).propensity_n for n in range(2_000)])
    assert set(np.unique(propensities).round(6).tolist()) == {0.2, 0.8}
    swapped = propensities == 0.2
    # Five standard errors of a share of .2 in 2,000 lists.
    assert np.abs(swapped.mean(axis=0) - 0.2).max() < 5 * 0.4 / np.sqrt(2_000)
    assert (swapped[:, 0::2] == swapped[:, 1::2]).all()


def test_a_swap_exchanges_neighbours() -> None:
    still = LoggingPolicy(*_same_world(epsilon=0.0)).retrieve(3, SETTINGS.start_ts, generator(9))
    moved = LoggingPolicy(*_same_world(epsilon=1.0)).retrieve(3, SETTINGS.start_ts, generator(9))
    assert (still.propensity_n == 1).all()
    assert (moved.propensity_n == 1).all()
    assert moved.items.tolist() == still.items.reshape(-1, 2)[:, ::-1].ravel().tolist()


@pytest.mark.parametrize("better", ["sales", "rating"])
def test_the_order_follows_what_the_ranker_sees(better: str) -> None:
    shelf = Shelf(WORLD)
    seen = np.log1p(shelf.sales_J) if better == "sales" else shelf.rating_J
    lists = [POLICY.retrieve(t, SETTINGS.start_ts, generator(t)).items for t in range(100)]
    top, bottom = (np.mean([seen[found[part]].mean() for found in lists]) for part in (slice(5), slice(-5, None)))
    assert top > bottom


def _same_world(*, epsilon: float) -> tuple[World, Shelf]:
    world = draw(MarketplaceSettings(seed=2, epsilon=epsilon, chi=0.3))
    return world, Shelf(world)
