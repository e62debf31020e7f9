"""The gain of a page ranker from teachers when few items of a page are graded, in the simulated shop.

`python -m tests.bench.label_budget` prints the tables of docs/benchmarks/smar.md. Each world is a shop of its own that
sells pages of four item types. Teachers of one type learn from the clicks of a long log. Then pages are graded as
annotators would, and of each type only the top share p by its teacher. All rows of a world learn from the same grades,
in the same steps; they differ in what else they learn: nothing, or the order of teachers of some quality.
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

from deploy.simulation.marketplace.market import Listing, Market
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.world import TYPES
from tests.harness.simulated_shop import SimulatedShop
from trainer.annotation.pages import top
from trainer.configs import LEARNING_PROFILES, MODEL_PROFILES
from trainer.configs.smar import PROFILES
from trainer.evaluation.metrics import ndcg, ranks
from trainer.features import ExampleBuilder, Examples, SessionExample, final_labels
from trainer.learning.determinism import make_deterministic
from trainer.learning.former import score
from trainer.learning.learner import Learner
from trainer.learning.training_lists import TrainingLists
from trainer.models.batch import PageLabels

Floats = NDArray[np.float64]
CPU = torch.device("cpu")
BUDGETS = (0.1, 0.2, 0.3, 1.0)
BATCH, PAGES_OF_STEP, BOUNDARY_EVERY = 64, 16, 20
LEARNING = replace(LEARNING_PROFILES["tiny"], batch=BATCH, lr=1e-3)
CUTS = (0.4, 0.65, 0.85, 0.95)
"""Shares of items below the grades 1 to 4."""
NOISE = 0.3
"""Standard deviation of what an annotator misjudges, in units of the utility."""


@dataclass(frozen=True)
class Arm:
    """A way to learn pages: the weight of the teachers' orders, and the teachers; the first one has none."""

    name: str
    alpha: float = 0.0
    teacher: str = ""


ARMS = (
    Arm("labels alone"),
    Arm("random teachers", 0.3, "random"),
    Arm("teachers of 1/16 of the log", 0.3, "1/16"),
    Arm("teachers of 1/4 of the log", 0.3, "1/4"),
    Arm("teachers of the log", 0.3, "log"),
    Arm("teachers of the log, alpha 1", 1.0, "log"),
    Arm("perfect teachers", 0.3, "perfect"),
)


@dataclass(frozen=True)
class Lists:
    """Lists with what only the truth knows about them: the worth [n] of each item for the average shopper."""

    listings: Sequence[Listing]
    examples: Sequence[SessionExample]
    worth: Floats
    types: NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """One shop: its log, lists without grades, pages to grade, and later pages to judge by."""

    market: Market
    log: Sequence[SessionExample]
    ungraded: Lists
    pages: Lists
    test: Lists
    cuts: Floats


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


def graded(chosen: Floats, types: NDArray[np.int64], teacher: Floats, p: float) -> Floats:
    """Return the grades [B,n] of the top share p of each type by the teacher, NaN for the others."""
    found = np.full(chosen.shape, np.nan)
    for row in range(len(chosen)):
        places = top([TYPES[kind] for kind in types[row].tolist()], teacher[row].tolist(), p)
        found[row, places] = chosen[row, places]
    return found


def build(seed: int, args: argparse.Namespace) -> World:
    """Return the world of a seed; its log is shown in random order, so that positions say nothing about items."""
    count = args.log + args.pages + args.test
    settings = MarketplaceSettings(
        seed=seed, other_types=0.5, rate=1_200.0, hours=1.02 * count / 1_200.0 + 1.0, chi=0.0, clients=2_000
    )
    shop = SimulatedShop(settings)
    n = settings.candidates
    rng = np.random.default_rng([seed, 1])
    listings = list(islice(shop.listings(), count))
    builder, examples = ExampleBuilder(shop.catalogue), []
    for start in range(0, count, 256):
        shown = [shop.show(listing, rng.permutation(n), np.full(n, 1 / n)) for listing in listings[start : start + 256]]
        examples += builder.from_sessions(shown, [final_labels(session) for session in shown])[0].split()

    def part(first: int, end: int) -> Lists:
        own = listings[first:end]
        return Lists(
            own,
            examples[first:end],
            np.stack([worth(shop.market, each) for each in own]),
            np.stack([shop.market.world.items.type[each.candidates.items] for each in own]),
        )

    pages = part(args.log, args.log + args.pages)
    return World(
        shop.market,
        examples[: args.log],
        part(args.log - args.pages, args.log),
        pages,
        part(args.log + args.pages, count),
        np.quantile(pages.worth, CUTS),
    )


def teach(log: Sequence[SessionExample], seed: int) -> dict[str, Learner]:
    """Return a teacher of each type: DIN, in one pass over the clicks and orders of a log."""
    config = replace(MODEL_PROFILES["din"]["tiny"], clicked_weight=1.0)
    batches = [Examples.of(log[start : start + BATCH]) for start in range(0, len(log), BATCH)]
    found = {}
    for name in TYPES:
        learning = replace(LEARNING, seed=seed, item_type=name)  # type: ignore[arg-type]
        learner = Learner("din", config, learning, device=CPU)
        for number, batch in enumerate(batches):
            learner.train(TrainingLists.without_sessions(batch, fresh=True))
            if number % BOUNDARY_EVERY == BOUNDARY_EVERY - 1:
                learner.at_boundary(0, None)
        found[name] = learner
    return found


def taught(teachers: Mapping[str, Learner], lists: Lists) -> Floats:
    """Return the scores [B,n] of the teacher of each item's type."""
    found = np.zeros(lists.worth.shape)
    for kind, name in enumerate(TYPES):
        own = teachers[name]
        for start in range(0, len(found), 256):
            rows = slice(start, start + 256)
            examples = Examples.of(lists.examples[rows])
            _, outputs = score(own.model, own.config, own.params, own.id_maps, examples, CPU, name)
            found[rows] = np.where(lists.types[rows] == kind, outputs.logit.numpy(), found[rows])
    return found


def right_pairs(scores: Floats, lists: Lists) -> float:
    """Return the share of pairs of one type, of one list, that scores order as their worth."""
    right = total = 0
    for row in range(len(scores)):
        same = np.equal.outer(lists.types[row], lists.types[row])
        better = same & (np.subtract.outer(lists.worth[row], lists.worth[row]) > 0)
        right += int((np.subtract.outer(scores[row], scores[row])[better] > 0).sum())
        total += int(better.sum())
    return right / total


def learn(
    world: World, arm: Arm, teachers: Mapping[str, tuple[Floats, Floats]], grade: Floats, args: argparse.Namespace
) -> Learner:
    """Return a page ranker that has learned the graded pages and, with teachers, their orders on all lists."""
    config = replace(PROFILES["tiny"], consistency=arm.alpha)
    learner = Learner("smar", config, replace(LEARNING, seed=args.seed), device=CPU)
    both = [*world.pages.examples, *(world.ungraded.examples if arm.teacher else ())]
    learner.observe(Examples.of([*world.pages.examples, *world.ungraded.examples]))
    learner.at_boundary(0, None)
    n = grade.shape[1]
    none = np.full((len(both), n), np.nan)
    teacher = np.concatenate(teachers[arm.teacher]) if arm.teacher else none
    grade = np.concatenate([grade, np.full((len(both) - len(grade), n), np.nan)])
    types = np.concatenate([world.pages.types, world.ungraded.types])[: len(both)]
    rng, pages = np.random.default_rng(args.seed), len(world.pages.examples)
    for _ in range(args.epochs):
        order, other = rng.permutation(pages), rng.permutation(pages) + pages
        for start in range(0, pages, PAGES_OF_STEP):
            rows = order[start : start + PAGES_OF_STEP]
            if arm.teacher:
                rows = np.concatenate([rows, other[start : start + PAGES_OF_STEP]])
            labels = PageLabels(teacher[rows].astype(np.float32), grade[rows].astype(np.float32), types[rows])
            lists = Examples.of([both[row] for row in rows.tolist()])
            silent = replace(lists, click=np.zeros_like(lists.click), conv=np.zeros_like(lists.conv))
            learner.train(TrainingLists.without_sessions(silent, fresh=False, page=labels))
    return learner


def scores_of(learner: Learner, lists: Lists) -> Floats:
    """Return the scores [B,n] of a page ranker."""
    found = []
    for start in range(0, len(lists.examples), 256):
        examples = Examples.of(lists.examples[start : start + 256])
        _, outputs = score(learner.model, learner.config, learner.params, learner.id_maps, examples, CPU)
        found.append(outputs.logit.numpy().astype(np.float64))
    return np.concatenate(found)


def judged(world: World, scores: Floats) -> tuple[Floats, Floats]:
    """Return NDCG@10 by the true grades, and the expected orders, of each later page."""
    mask = np.ones(scores.shape, np.bool_)
    quality = ndcg(ranks(scores, mask), grades(world.test.worth, world.cuts), mask, 10)
    orders = [
        world.market.expect(listing, np.argsort(-row, kind="stable")).order
        for listing, row in zip(world.test.listings, scores, strict=True)
    ]
    return quality, np.array(orders)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _teachers(world: World, seed: int) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Return the scores of each kind of teachers for pages, lists without grades, and later pages."""
    lists = (world.pages, world.ungraded, world.test)
    found: dict[str, tuple[Floats, Floats, Floats]] = {}
    for name, share in (("random", 0.0), ("1/16", 1 / 16), ("1/4", 1 / 4), ("log", 1.0)):
        own = teach(world.log[len(world.log) - round(share * len(world.log)) :], seed)
        found[name] = (taught(own, lists[0]), taught(own, lists[1]), taught(own, lists[2]))
    found["perfect"] = (world.pages.worth, world.ungraded.worth, world.test.worth)
    return found


def main() -> None:
    """Run the worlds one after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", default="1,2,3,4,5", help="seeds of the worlds")
    parser.add_argument("--log", type=int, default=16_000, help="lists that teachers learn from")
    parser.add_argument("--pages", type=int, default=300, help="pages to grade, and as many lists without grades")
    parser.add_argument("--test", type=int, default=300, help="later pages on which rankers are compared")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the graded pages")
    parser.add_argument("--seed", type=int, default=1, help="seed of the page rankers")
    parser.add_argument("--rows", default="", help="numbers of rows beside labels alone, by commas; by default all")
    args = parser.parse_args()
    arms = (ARMS[0], *(ARMS[int(each)] for each in args.rows.split(","))) if args.rows else ARMS
    make_deterministic(1)
    quality: dict[tuple[float, str], list[Floats]] = {}
    orders: dict[tuple[float, str], list[Floats]] = {}
    right: dict[str, list[float]] = {}
    for seed in (int(each) for each in args.worlds.split(",")):
        started = time.monotonic()
        world = build(seed, args)
        teachers = _teachers(world, seed)
        for name, (_, _, later) in teachers.items():
            right.setdefault(name, []).append(right_pairs(later, world.test))
        pairs = ", ".join(f"{name} {values[-1]:.3f}" for name, values in right.items())
        _say(f"world {seed}: {time.monotonic() - started:.0f} s, right pairs {pairs}")
        rng = np.random.default_rng([seed, 2])
        chosen = grades(world.pages.worth + NOISE * rng.normal(size=world.pages.worth.shape), world.cuts)
        for name, (_, _, later) in teachers.items():
            quality.setdefault((0.0, name), []).append(judged(world, later)[0])
        base = judged(
            world, -np.arange(world.test.worth.shape[1])[None].repeat(len(world.test.worth), 0).astype(np.float64)
        )
        quality.setdefault((0.0, "incoming order"), []).append(base[0])
        for p in BUDGETS:
            grade = graded(chosen, world.pages.types, teachers["log"][0], p)
            for arm in arms:
                labels = {name: own[:2] for name, own in teachers.items()}
                found = judged(world, scores_of(learn(world, arm, labels, grade, args), world.test))
                quality.setdefault((p, arm.name), []).append(found[0])
                orders.setdefault((p, arm.name), []).append(found[1] / base[1].mean())
                _say(
                    f"world {seed}: {100 * p:.0f} % ({np.mean(~np.isnan(grade)):.3f} of the items), {arm.name}: NDCG@10"
                    f" {found[0].mean():.4f}, orders {100 * (found[1].mean() / base[1].mean() - 1):+.1f} %"
                )
        _say(f"world {seed}: {time.monotonic() - started:.0f} s")
        # After each world, so that a run may be ended early.
        _print(arms, quality, orders, right)


def _print(
    arms: Sequence[Arm],
    quality: Mapping[tuple[float, str], Sequence[Floats]],
    orders: Mapping[tuple[float, str], Sequence[Floats]],
    right: Mapping[str, Sequence[float]],
) -> None:
    lines = ["| teachers | right pairs | NDCG@10 of their scores as a page |", "|---|---|---|"]
    for name, values in right.items():
        lines.append(f"| {name} | {np.mean(values):.3f} | {_mean(quality[0.0, name]):.4f} |")
    lines += [f"| incoming order | | {_mean(quality[0.0, 'incoming order']):.4f} |", ""]
    lines += ["| row | " + " | ".join(f"{100 * p:.0f} %" for p in BUDGETS) + " |", "|---" * (1 + len(BUDGETS)) + "|"]
    lines += [
        f"| {arm.name} | " + " | ".join(f"{_mean(quality[p, arm.name]):.4f}" for p in BUDGETS) + " |" for arm in arms
    ]
    lines += [
        "",
        "| row, less labels alone | budget | NDCG@10 (interval) | by world | orders (interval) |",
        "|---" * 5 + "|",
    ]
    for arm in arms[1:]:
        for p in BUDGETS:
            cells = [interval(own[p, arm.name], own[p, ARMS[0].name]) for own in (quality, orders)]
            (mean, low, high, by_world), (gain, least, most, _) = cells
            worlds = " ".join(f"{each:+.3f}" for each in by_world)
            lines.append(
                f"| {arm.name} | {100 * p:.0f} % | {mean:+.4f} ({low:+.4f} to {high:+.4f}) | {worlds} |"
                f" {100 * gain:+.1f} % ({100 * least:+.1f} to {100 * most:+.1f}) |"
            )
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


def _mean(by_world: Sequence[Floats]) -> float:
    return float(np.mean([each.mean() for each in by_world]))


def interval(new: Sequence[Floats], old: Sequence[Floats]) -> tuple[float, float, float, list[float]]:
    """Return the mean difference over worlds, its interval of 95 % by a bootstrap, and the difference by world.

    A resample draws worlds, and then pages of each of them; both rows have the same pages.
    """
    differences = [one - other for one, other in zip(new, old, strict=True)]
    rng = np.random.default_rng(0)
    means = []
    for _ in range(2_000):
        drawn = [differences[world] for world in rng.integers(len(differences), size=len(differences)).tolist()]
        means.append(np.mean([own[rng.integers(len(own), size=len(own))].mean() for own in drawn]))
    low, high = np.quantile(means, [0.025, 0.975])
    by_world = [float(own.mean()) for own in differences]
    return float(np.mean(by_world)), float(low), float(high), by_world


if __name__ == "__main__":
    main()
