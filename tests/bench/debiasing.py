"""True orders of models that learn from the simulated shop with and without weights by inverse examination.

`python -m tests.bench.debiasing` prints the table of docs/benchmarks/debiasing.md. Each world is a shop of its own. All
models of a world learn from the same log, shown in the incoming order, in one pass. They order the same later lists,
for which the shop tells the expected orders of any order.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.simulation.marketplace.market import Listing
from deploy.simulation.marketplace.settings import MarketplaceSettings
from stream.schemas.session import Session
from tests.harness.simulated_shop import SimulatedShop
from trainer.configs import LEARNING_PROFILES, MODEL_PROFILES, LearningSettings
from trainer.evaluation import metrics
from trainer.examination.estimate import estimate
from trainer.examination.observations import Method, observe
from trainer.features import Examples, SessionExample, collate, example_from_session, final_labels
from trainer.learning.determinism import make_deterministic
from trainer.learning.learner import Learner
from trainer.learning.training_lists import TrainingLists
from trainer.models import MODELS, to_torch

BATCH = 64
BOUNDARY_EVERY = 20
LEARNING = replace(LEARNING_PROFILES["tiny"], batch=BATCH, lr=1e-3)


@dataclass(frozen=True)
class Variant:
    """A way to learn: the model, the weight of lists with clicks alone, and the curve."""

    model: str
    clicked_weight: float
    curve: str

    @property
    def name(self) -> str:
        clicks = "orders" if not self.clicked_weight else f"orders, clicks x {self.clicked_weight:g}"
        return f"{self.model}, {clicks}, {self.curve}"


VARIANTS = (
    Variant("prm", 0.0, "none"),
    Variant("prm", 1.0, "none"),
    Variant("prm", 0.0, "true"),
    Variant("prm", 1.0, "true"),
    Variant("prm", 1.0, "em"),
    Variant("prm", 1.0, "shuffle"),
    Variant("prm", 0.3, "shuffle"),
    Variant("armmt", 0.0, "none"),
    Variant("armmt", 0.0, "shuffle"),
)


@dataclass(frozen=True)
class World:
    """The log, the later lists and the curves of one shop."""

    shop: SimulatedShop
    train: Sequence[SessionExample]
    later: Sequence[Listing]
    later_examples: Sequence[SessionExample]
    curves: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Result:
    """Orders and money by list, in the model's order; the share of effective labels; GAUC of clicks as displayed."""

    orders: NDArray[np.float64]
    money: NDArray[np.float64]
    effective: float
    gauc: float


def build(seed: int, args: argparse.Namespace, variants: Sequence[Variant]) -> World:
    """Return the world of a seed: its log, later lists, and lists that are shown shuffled for the curve alone."""
    count = args.lists + args.later + args.shuffled
    settings = MarketplaceSettings(seed=seed, conversion_boost=4.0, rate=1_200.0, hours=1.02 * count / 1_200.0 + 1.0)
    shop = SimulatedShop(settings)
    n = settings.candidates
    incoming, certain = np.arange(n), np.ones(n)
    rng = np.random.default_rng([seed, 1])
    train, sessions, later, later_examples, shuffled = [], [], [], [], []
    for number, listing in enumerate(islice(shop.listings(), count)):
        if number < args.lists + args.later:
            session = shop.show(listing, incoming, certain)
            example = example_from_session(session, shop.catalogue, final_labels(session))
            if number < args.lists:
                sessions.append(_labels_alone(session))
                train.append(example)
            else:
                later.append(listing)
                later_examples.append(example)
        else:
            shuffled.append(_labels_alone(shop.show(listing, rng.permutation(n), np.full(n, 1 / n))))
    attention = (incoming + 1.0) ** -settings.eta / settings.first_slot
    attention[0] = 1.0
    curves: dict[str, tuple[float, ...]] = {"true": tuple(attention.round(4).tolist())}
    logs: tuple[tuple[Method, list[Session]], ...] = (("em", sessions), ("shuffle", shuffled))
    for method, log in logs:
        if method not in {each.curve for each in variants}:
            continue
        # Intervals are not needed, and two resamples are the fewest.
        found = estimate(observe(log, method), method, data="shop", resamples=2)
        curves[method] = found.values()
        _say(
            f"  curve by {method}: "
            + " ".join(f"{each.first}-{each.last}:{each.examination:.3f}" for each in found.positions)
        )
    return World(shop, train, later, later_examples, curves)


def _labels_alone(session: Session) -> Session:
    """Return the session without the columns that no estimate reads, which fill the memory."""
    session.item_f16 = session.context_f16 = session.hist_action = session.hist_age_s = b""
    session.hist_item, session.hist_category = [], []
    return session


def learn(world: World, variant: Variant) -> Result:
    """Train a fresh model in one pass over the log, and return what its order of the later lists is worth."""
    learning: LearningSettings = LEARNING
    if variant.curve != "none":
        learning = replace(LEARNING, debias="curve", examination=world.curves[variant.curve])
    config = replace(MODEL_PROFILES[variant.model]["tiny"], clicked_weight=variant.clicked_weight)
    learner = Learner(variant.model, config, learning, device=torch.device("cpu"))
    for number, start in enumerate(range(0, len(world.train), BATCH)):
        batch = world.train[start : start + BATCH]
        learner.train(TrainingLists.without_sessions(Examples.of(batch), fresh=True))
        if number % BOUNDARY_EVERY == BOUNDARY_EVERY - 1:
            learner.at_boundary(0, None)
    orders, money, gauc = [], [], []
    for start in range(0, len(world.later), 256):
        examples = world.later_examples[start : start + 256]
        batch_ = collate(Examples.of(examples), learner.id_maps, width=config.vector_width, history=config.history)
        with torch.no_grad():
            logit = MODELS[variant.model].forward(config, learner.params, to_torch(batch_)).logit
        score = logit.numpy().astype(np.float64)
        rank = metrics.ranks(score, batch_.cand_mask)
        gauc.append(metrics.list_auc(rank, batch_.click > 0, batch_.cand_mask))
        for row, listing in enumerate(world.later[start : start + 256]):
            # Rows of an example stand in the incoming order, and so do the candidates of a listing.
            truth = world.shop.market.expect(listing, np.argsort(-score[row], kind="stable"))
            orders.append(truth.order)
            money.append(truth.gmv_minor)
    return Result(
        np.array(orders),
        np.array(money),
        learner.labels.effective / max(learner.labels.num, 1),
        float(np.nanmean(np.concatenate(gauc))),
    )


def incoming(world: World) -> Result:
    """Return what the incoming order of the later lists is worth."""
    found = [world.shop.market.expect(each, np.arange(len(each.candidates.items))) for each in world.later]
    return Result(np.array([each.order for each in found]), np.array([each.gmv_minor for each in found]), 1.0, 0.0)


def gain(new: NDArray[np.float64], old: NDArray[np.float64], base: NDArray[np.float64]) -> tuple[float, float]:
    """Return the difference of two rankers in percent of the incoming order, and its standard error over lists."""
    difference = new - old
    return float(100 * difference.mean() / base.mean()), float(
        100 * difference.std(ddof=1) / np.sqrt(len(difference)) / base.mean()
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    """Run the worlds one after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", default="1,2,3", help="seeds of the worlds")
    parser.add_argument("--lists", type=int, default=24_000, help="lists that models learn from")
    parser.add_argument("--later", type=int, default=1_000, help="later lists on which they are compared")
    parser.add_argument("--shuffled", type=int, default=3_000, help="further lists, shuffled, for the curve alone")
    parser.add_argument("--variants", default="", help="numbers of the variants, by commas; by default all")
    args = parser.parse_args()
    variants = [VARIANTS[int(each) - 1] for each in args.variants.split(",") if each] or VARIANTS
    make_deterministic(1)
    seeds = [int(each) for each in args.worlds.split(",")]
    found: dict[str, list[Result]] = {}
    bases: list[Result] = []
    for seed in seeds:
        started = time.monotonic()
        world = build(seed, args, variants)
        bases.append(incoming(world))
        _say(f"world {seed}: built in {time.monotonic() - started:.0f} s")
        for variant in variants:
            started = time.monotonic()
            found.setdefault(variant.name, []).append(learn(world, variant))
            own = found[variant.name][-1]
            mean, error = gain(own.orders, bases[-1].orders, bases[-1].orders)
            _say(
                f"world {seed}: {variant.name}: orders {mean:+.1f} % (s.e. {error:.1f}), GAUC {own.gauc:.3f},"
                f" effective {own.effective:.2f}, {time.monotonic() - started:.0f} s"
            )
    _print(seeds, found, bases)


def _print(seeds: Sequence[int], found: Mapping[str, Sequence[Result]], bases: Sequence[Result]) -> None:
    first = next(iter(found.values()))
    lines = [
        "| variant | " + " | ".join(f"world {seed}" for seed in seeds) + " | GMV, mean | - first row, orders (s.e.) |"
        " GAUC of clicks, as displayed | effective labels |",
        "|---" * (len(seeds) + 5) + "|",
    ]
    for name, results in found.items():
        by_world = [gain(own.orders, base.orders, base.orders)[0] for own, base in zip(results, bases, strict=True)]
        money = np.mean([gain(own.money, base.money, base.money)[0] for own, base in zip(results, bases, strict=True)])
        differences = [
            gain(own.orders, old.orders, base.orders) for own, old, base in zip(results, first, bases, strict=True)
        ]
        mean = np.mean([each for each, _ in differences])
        error = np.sqrt(np.sum([each**2 for _, each in differences])) / len(differences)
        gauc, effective = np.mean([own.gauc for own in results]), np.mean([own.effective for own in results])
        cells = [name, *(f"{each:+.1f}" for each in by_world), f"{money:+.1f}", f"{mean:+.1f} ({error:.1f})"]
        lines.append(f"| {' | '.join(cells)} | {gauc:.3f} | {effective:.2f} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
