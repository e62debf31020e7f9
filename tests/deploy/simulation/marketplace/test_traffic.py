from collections import Counter

import numpy as np
import pytest

from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.traffic import searches
from deploy.simulation.marketplace.world import category_of_text, draw

SETTINGS = MarketplaceSettings(seed=5, hours=8.0, rate=2_000.0, clients=4_000)


def test_searches_come_in_time_order_at_the_configured_rate() -> None:
    coming = list(searches(draw(SETTINGS)))
    times = np.array([search.event_ts for search in coming])
    assert (np.diff(times) >= 0).all()
    assert times[0] >= SETTINGS.start_ts
    assert times[-1] < SETTINGS.start_ts + 8 * 3_600_000
    assert len(coming) == pytest.approx(8 * 2_000, rel=0.12)
    # The shop is not empty at the beginning.
    first_hour = (times < SETTINGS.start_ts + 3_600_000).sum()
    assert first_hour > 0.7 * 2_000


def test_visits_have_the_configured_lengths() -> None:
    coming = list(searches(draw(SETTINGS)))
    inner = Counter(s.visit for s in coming)
    begun = {s.visit for s in coming if s.event_ts < SETTINGS.start_ts + 2 * 3_600_000}
    lengths = np.array([inner[visit] for visit in begun])
    assert np.median(lengths) == pytest.approx(SETTINGS.visit_median, abs=2)
    assert np.quantile(lengths, 0.9) == pytest.approx(SETTINGS.visit_p90, rel=0.4)


def test_a_client_counts_its_searches_from_zero_without_gaps() -> None:
    numbers: dict[int, list[int]] = {}
    for search in searches(draw(SETTINGS)):
        numbers.setdefault(search.client, []).append(search.number)
    assert all(found == list(range(len(found))) for found in numbers.values())


def test_the_same_seed_gives_the_same_searches_and_another_seed_others() -> None:
    settings = MarketplaceSettings(seed=5, hours=0.5)
    assert list(searches(draw(settings))) == list(searches(draw(settings)))
    assert list(searches(draw(settings))) != list(searches(draw(MarketplaceSettings(seed=6, hours=0.5))))


def test_active_clients_come_more_often() -> None:
    world = draw(SETTINGS)
    visits = Counter(client for _, client in {(s.visit, s.client) for s in searches(world)})
    busiest = np.argsort(-world.clients.activity)[:400]
    assert sum(visits[int(c)] for c in busiest) > 0.25 * visits.total()


def test_bots_appear_only_when_switched_on() -> None:
    assert not any(s.is_bot for s in searches(draw(MarketplaceSettings(hours=1.0))))
    with_bots = list(searches(draw(MarketplaceSettings(hours=4.0, bots=True))))
    share = len({s.visit for s in with_bots if s.is_bot}) / len({s.visit for s in with_bots})
    assert 0.005 < share < 0.05


def test_texts_belong_to_categories() -> None:
    world = draw(MarketplaceSettings(hours=0.5))
    assert {category_of_text(s.text) for s in searches(world)} <= set(range(world.settings.categories))
