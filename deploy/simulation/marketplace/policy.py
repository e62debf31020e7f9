"""The upstream ranker, also called the logging policy: linear in what it sees, plus random swaps of known chance."""

from dataclasses import dataclass

import numpy as np

from deploy.simulation.marketplace.observables import Shelf
from deploy.simulation.marketplace.world import Floats, Ints, World, category_of_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The incoming order of one query.

    Attributes:
        items: Item numbers, best first.
        relevance_n: Hidden relevance of each, for the truth.
        propensity_n: Chance that the item stands in its slot, given the ranker's scores.
    """

    items: Ints
    relevance_n: Floats
    propensity_n: Floats


class LoggingPolicy:
    """Scores every item of the text's category and keeps the best."""

    def __init__(self, world: World, shelf: Shelf) -> None:
        self._world = world
        self._static: list[Floats] = []
        for items in world.by_category:
            sales = _standard(np.log1p(shelf.sales_J[items]))
            rating = _standard(shelf.rating_J[items])
            price = _standard(world.items.log_price[items])
            self._static.append(0.5 * sales + 0.3 * rating - 0.2 * price)

    def retrieve(self, text: int, at_ts: int, rng: np.random.Generator) -> Candidates:
        """Return the incoming order of one query."""
        dials = self._world.settings
        category = category_of_text(text)
        items = self._world.by_category[category]
        relevance = self._world.relevance[text]
        # The index knows relevance only roughly, and its shards answer a little differently each time.
        score = self._static[category] + relevance + rng.normal(0.0, 0.9, len(items))
        score = np.where(self._world.items.launch_ts[items] <= at_ts, score, -np.inf)
        n = dials.candidates
        best = np.argpartition(-score, n - 1)[:n]
        best = best[np.argsort(-score[best], kind="stable")]
        order, propensity_n = _swap_pairs(n, dials.epsilon, rng)
        chosen = best[order]
        return Candidates(items=items[chosen], relevance_n=relevance[chosen], propensity_n=propensity_n)


def _swap_pairs(n: int, epsilon: float, rng: np.random.Generator) -> tuple[Ints, Floats]:
    # Pairs are disjoint, so the chance of an item's slot is epsilon or 1 - epsilon exactly.
    num_pairs = n // 2
    is_swapped = np.zeros(n, dtype=np.bool_)
    is_swapped[: 2 * num_pairs] = np.repeat(rng.random(num_pairs) < epsilon, 2)
    order = np.arange(n)
    order = np.where(is_swapped, order ^ 1, order)
    propensity_n = np.where(is_swapped, epsilon, 1 - epsilon)
    if n % 2:
        propensity_n[-1] = 1.0
    return order, propensity_n


def _standard(values: Floats) -> Floats:
    spread = values.std()
    standard: Floats = (values - values.mean()) / (spread if spread > 0 else 1.0)
    return standard
