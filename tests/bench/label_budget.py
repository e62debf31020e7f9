"""The gain of a page ranker from teachers when few items of a page are graded, in the simulated shop.

`python -m tests.bench.label_budget` prints the tables of docs/benchmarks/smar.md. Each world is a shop of its own that
sells pages of four item types. Teachers of one type learn from the clicks of a long log. Then pages are graded as
annotators would, and of each type only the top share p by its teacher.
"""

import argparse
from collections.abc import Sequence
from itertools import islice

import numpy as np

from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.world import TYPES
from tests.bench.budget_runs import Plan, Task, add_options, run
from tests.bench.page_rankers import LABELS_ALONE, Arm, Floats, Lists
from tests.harness.simulated_shop import SimulatedShop
from trainer.features import ExampleBuilder, SessionExample, final_labels

CUTS = (0.4, 0.65, 0.85, 0.95)
"""Shares of items below the grades 1 to 4."""
NOISE = 0.3
"""Standard deviation of what an annotator misjudges, in units of the utility."""
SHARES = {"random": 0.0, "1/16": 1 / 16, "1/4": 1 / 4, "log": 1.0}
"""Newest part of the log that teachers learn from, by their name."""
ARMS = (
    LABELS_ALONE,
    Arm("random teachers", 0.3, "random"),
    Arm("teachers of 1/16 of the log", 0.3, "1/16"),
    Arm("teachers of 1/4 of the log", 0.3, "1/4"),
    Arm("teachers of the log", 0.3, "log"),
    Arm("teachers of the log, alpha 1", 1.0, "log"),
    Arm("perfect teachers", 0.3, "perfect"),
)


def worth(market: Market, listing: Listing) -> Floats:
    """Return what each item is worth on the page to the average shopper, without the taste of the client who asked."""
    items, truth = listing.candidates.items, market.world.items
    dear = truth.log_price[items] - np.median(truth.log_price[items])
    price_weight = float(np.mean(market.world.clients.price_weight))
    found: Floats = (
        listing.candidates.relevance_n + truth.quality[items] + truth.type_worth[items] - price_weight * dear
    )
    return found


def grades(values: Floats, cuts: Floats) -> Floats:
    """Return grades from 0: the number of cuts that a value reaches.

    >>> grades(np.array([-1.0, 0.5, 9.0]), np.array([0.0, 1.0])).tolist()
    [0.0, 1.0, 2.0]
    """
    return np.searchsorted(cuts, values, side="right").astype(np.float64)


def expected_orders(market: Market, listings: Sequence[Listing], scores: Floats) -> float:
    """Return the mean expected orders of lists in the order of their scores [B,n]."""
    found = [
        market.expect(listing, np.argsort(-row, kind="stable")).order
        for listing, row in zip(listings, scores, strict=True)
    ]
    return float(np.mean(found))


def build(seed: int, args: argparse.Namespace) -> Task:
    """Return the world of a seed; its log is shown in random order, so that positions say nothing about items."""
    count = args.log + args.pages + args.test
    settings = MarketplaceSettings(
        seed=seed, other_types=0.5, rate=1_200.0, hours=1.02 * count / 1_200.0 + 1.0, chi=0.0, clients=2_000
    )
    shop = SimulatedShop(settings)
    n = settings.candidates
    rng = np.random.default_rng([seed, 1])
    listings = list(islice(shop.listings(), count))
    builder, examples = ExampleBuilder(shop.catalogue), list[SessionExample]()
    for start in range(0, count, 256):
        shown = [shop.show(listing, rng.permutation(n), np.full(n, 1 / n)) for listing in listings[start : start + 256]]
        examples += builder.from_sessions(shown, [final_labels(session) for session in shown])[0].split()

    def part(first: int, end: int) -> Lists:
        own = listings[first:end]
        return Lists(
            examples[first:end],
            np.stack([worth(shop.market, each) for each in own]),
            np.stack([shop.market.world.items.type[each.candidates.items] for each in own]),
        )

    pages, test = part(args.log, args.log + args.pages), part(args.log + args.pages, count)
    cuts = np.quantile(pages.worth, CUTS)
    misjudged = NOISE * np.random.default_rng([seed, 2]).normal(size=pages.worth.shape)
    return Task(
        types=TYPES,
        logs={name: examples[args.log - round(share * args.log) : args.log] for name, share in SHARES.items()},
        pages=pages,
        ungraded=part(args.log - args.pages, args.log),
        test=test,
        chosen=grades(pages.worth + misjudged, cuts),
        truth=grades(test.worth, cuts),
        orders=lambda scores: expected_orders(shop.market, listings[args.log + args.pages :], scores),
    )


def main() -> None:
    """Run the worlds one after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--worlds", default="1,2,3,4,5", help="seeds of the worlds; none prints the tables of --records"
    )
    parser.add_argument("--log", type=int, default=16_000, help="lists that teachers learn from")
    parser.add_argument("--pages", type=int, default=300, help="pages to grade, and as many lists without grades")
    parser.add_argument("--test", type=int, default=300, help="later pages on which rankers are compared")
    parser.add_argument("--seed", type=int, default=1, help="seed of the page rankers")
    add_options(parser)
    args = parser.parse_args()
    seeds = [int(each) for each in args.worlds.split(",") if each]
    run(Plan.of("world", ARMS, args), seeds, lambda seed: build(seed, args), ranker_seed=args.seed)


if __name__ == "__main__":
    main()
