"""Visits that arrive at random, each a client with a few searches, independent of the shown lists."""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from deploy.simulation.marketplace import delays
from deploy.simulation.marketplace.randomness import generator
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.world import TEXTS_PER_CATEGORY, World
from stream.schemas.times import HOUR_MS

MAX_SEARCHES = 60
BOT_SHARE = 0.02
WARM_UP_MS = 2.0 * HOUR_MS
_NORMAL_P90 = 1.2815515655446004


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Search:
    """One search: `number` counts the client's searches from 0 and is, with the client, the key of its randomness."""

    event_ts: int
    client: int
    number: int
    text: int
    page: int
    visit: int
    is_bot: bool


def visit_length(settings: MarketplaceSettings, rng: np.random.Generator) -> int:
    """Draw the number of searches of a visit: log-normal with the configured median and 90 % quantile."""
    sigma = np.log(settings.visit_p90 / settings.visit_median) / _NORMAL_P90
    return int(np.clip(np.rint(rng.lognormal(np.log(settings.visit_median), sigma)), 1, MAX_SEARCHES))


def searches(world: World) -> Iterator[Search]:
    """Yield all searches of the configured hours in time order; the same world gives the same searches."""
    dials = world.settings
    end_ts = dials.start_ts + int(dials.hours * HOUR_MS)
    numbers: dict[int, int] = {}
    waiting: list[Search] = []
    for visit_ts, visit in _visits(dials, end_ts):
        while waiting and waiting[0].event_ts <= visit_ts:
            yield _numbered(heappop(waiting), numbers)
        for search in _visit(world, visit, visit_ts):
            if dials.start_ts <= search.event_ts < end_ts:
                heappush(waiting, search)
    while waiting:
        yield _numbered(heappop(waiting), numbers)


def _visits(dials: MarketplaceSettings, end_ts: int) -> Iterator[tuple[int, int]]:
    # Visits that began before the first moment fill the shop, so that the rate holds from the beginning on.
    sample = generator(dials.seed, "visit lengths")
    mean_length = float(np.mean([visit_length(dials, sample) for _ in range(4_000)]))
    gap_ms = HOUR_MS * mean_length / dials.rate
    rng = generator(dials.seed, "arrivals")
    at_ms, visit = -WARM_UP_MS, 0
    while True:
        at_ms += rng.exponential(gap_ms)
        if dials.start_ts + at_ms >= end_ts:
            return
        yield dials.start_ts + int(at_ms), visit
        visit += 1


def _visit(world: World, visit: int, visit_ts: int) -> Iterator[Search]:
    dials = world.settings
    rng = generator(dials.seed, "visit", visit)
    cumulative = world.clients.activity.cumsum()
    client = min(int(np.searchsorted(cumulative, rng.random() * cumulative[-1])), dials.clients - 1)
    is_bot = dials.bots and rng.random() < BOT_SHARE
    category = int(rng.integers(dials.categories))
    at_ts, text, page = visit_ts, -1, 1
    for _ in range(visit_length(dials, rng)):
        if text < 0 or rng.random() < 0.6:
            if rng.random() < 0.2:
                category = int(rng.integers(dials.categories))
            # Popular texts come more often: the square pushes draws towards 0.
            text = category * TEXTS_PER_CATEGORY + int(TEXTS_PER_CATEGORY * rng.random() ** 2)
            page = 1
        else:
            page += 1
        yield Search(event_ts=at_ts, client=client, number=-1, text=text, page=page, visit=visit, is_bot=is_bot)
        at_ts += 500 if is_bot else delays.lognormal_ms(rng, 40_000, 1.0)


def _numbered(search: Search, numbers: dict[int, int]) -> Search:
    number = numbers.get(search.client, 0)
    numbers[search.client] = number + 1
    return Search(
        event_ts=search.event_ts,
        client=search.client,
        number=number,
        text=search.text,
        page=search.page,
        visit=search.visit,
        is_bot=search.is_bot,
    )
