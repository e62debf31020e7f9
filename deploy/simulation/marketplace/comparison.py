"""Comparison of models by the truth: trained on the log of a shop that shows the incoming order, judged on later lists.

Each model learns the same sessions in the trainer's order, once. After each number of lists it orders the same later
lists, and the expected orders and money of its order are compared with those of the incoming order and of the other
models, list by list.

Source: docs/benchmarks/marketplace.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deploy.simulation.marketplace.in_process import ShopLog, ShownList, shop
from deploy.simulation.marketplace.market import Market
from deploy.simulation.marketplace.permuted_labels import permute_labels
from deploy.simulation.marketplace.randomness import generator
from deploy.simulation.marketplace.settings import MarketplaceSettings
from deploy.simulation.marketplace.truth import best_order
from stream.replicas.catalogue import Catalogue
from stream.schemas.session import Session
from trainer.features import Examples, collate
from trainer.feed.batches import Batcher, Boundaries, CheckpointBoundary, Position, SessionBatch
from trainer.feed.merge import Cursor, WatermarkMerge
from trainer.learning.learner import Learner
from trainer.models import MODELS, to_torch

Floats = NDArray[np.float64]
_SCORED_AT_ONCE = 64
INCOMING, RANDOM, BEST = "incoming order", "random order", "best possible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Comparison to run.

    Attributes:
        shop: Dials of the shop; its seed and hours are set by the plan.
        seeds: Seeds of worlds, each with a log and fresh models of its own.
        lists: Numbers of lists to learn from, ascending.
        num_test: Later lists to judge by.
        learners: Name of a row to a function of the seed that returns its fresh learner.
        permute: Whether the outcomes of the lists to learn from are moved to other items of their list, as a control.
    """

    shop: MarketplaceSettings
    seeds: Sequence[int]
    lists: Sequence[int]
    num_test: int
    learners: Mapping[str, Callable[[int], Learner]]
    permute: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One order of the test lists: expected orders and money (minor units), arrays over them."""

    seed: int
    lists: int
    name: str
    orders: Floats
    gmv_minor: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Difference of two rows in the unit of the incoming order's orders, over all seeds.

    Attributes:
        error: Standard error over lists of all seeds; `by_seed` shows how worlds differ.
    """

    lists: int
    name: str
    reference: str
    orders: float
    error: float
    gmv: float
    by_seed: tuple[float, ...]


def run(plan: Plan, report: Callable[[str], None] = lambda _line: None) -> list[Row]:
    """Return the rows of all seeds."""
    rows: list[Row] = []
    for seed in plan.seeds:
        hours = (plan.lists[-1] + plan.num_test) / plan.shop.rate * 1.1 + 0.5
        market = Market(_with(plan.shop, seed, hours))
        log = shop(market, num_shown=plan.num_test)
        known = {shown.example.query_id for shown in log.shown}
        num_lists = sum(
            isinstance(one, Session) and one.revision == 0 and one.query_id not in known for _, one in log.records
        )
        report(f"seed {seed}: {num_lists} lists to learn from, {len(log.shown)} to judge by")
        if plan.permute:
            log.records = [
                (offset, permute_labels(one, seed) if isinstance(one, Session) else one) for offset, one in log.records
            ]
        rows += [
            _row(
                market,
                log,
                seed=seed,
                count=0,
                name=INCOMING,
                orders=[np.arange(len(one.example.item_ids)) for one in log.shown],
            ),
            _row(market, log, seed=seed, count=0, name=RANDOM, orders=[_random_order(seed, one) for one in log.shown]),
            _row(market, log, seed=seed, count=0, name=BEST, orders=[best_order(one.listing) for one in log.shown]),
        ]
        for name, fresh in plan.learners.items():
            learner = fresh(seed)
            for count in learn(learner, log, known, plan.lists):
                rows.append(
                    _row(market, log, seed=seed, count=count, name=name, orders=model_orders(learner, log.shown))
                )
                gain = rows[-1].orders.sum() / _find(rows, seed, 0, INCOMING).orders.sum() - 1
                report(f"seed {seed}: {name} after {count} lists: {100 * gain:+.1f} % true orders")
    return rows


def learn(learner: Learner, log: ShopLog, left_out: set[str], counts: Sequence[int]) -> Iterator[int]:
    """Train on the log in the trainer's order without some queries; yield at each number of lists learned from."""
    merge, grid = WatermarkMerge({0: Cursor(next_offset=0)}), learner.learning.checkpoint_s * 1_000
    batcher = Batcher(Boundaries(checkpoint_ms=grid, publish_ms=grid), Position(cursors={0: Cursor(next_offset=0)}))
    catalogue, waiting, previous_ts, num_lists = Catalogue(), list(log.items), None, 0
    todo = list(counts)
    for offset, record in log.records:
        if isinstance(record, Session):
            if record.query_id in left_out:
                continue
            num_lists += record.revision == 0
        merge.push(0, offset, record)
        for element in batcher.cut(merge.release()):
            if isinstance(element, SessionBatch):
                learner.learn(element, catalogue)
                continue
            assert isinstance(element, CheckpointBoundary)
            learner.at_boundary(element.boundary_ts, previous_ts)
            previous_ts = element.boundary_ts
            for item in waiting:
                if item.updated_ts <= element.boundary_ts:
                    catalogue.put(item)
            waiting = [item for item in waiting if item.updated_ts > element.boundary_ts]
        if num_lists == todo[0]:
            yield todo.pop(0)
            if not todo:
                return


def model_orders(learner: Learner, lists: Sequence[ShownList]) -> list[NDArray[np.int64]]:
    """Return the order in which the learner's weights show each list; equal scores keep the incoming order."""
    found: list[NDArray[np.int64]] = []
    for start in range(0, len(lists), _SCORED_AT_ONCE):
        examples = [shown.example for shown in lists[start : start + _SCORED_AT_ONCE]]
        batch = collate(
            Examples.of(examples),
            learner.id_maps,
            width=learner.config.vector_width,
            history=learner.config.history,
            pages=learner.config.num_pages,
        )
        logit = MODELS[learner.model].forward(learner.config, learner.params, to_torch(batch, learner.device)).logit
        scores = logit.detach().float().cpu().numpy()
        found += [np.argsort(-scores[row, : len(one.item_ids)], kind="stable") for row, one in enumerate(examples)]
    return found


def differences(rows: Sequence[Row], names: Sequence[str], reference: str) -> list[Difference]:
    """Return the difference of each named row to the reference, at each number of lists.

    Standard errors treat lists as independent; the incoming order's orders per list are the unit.
    """
    found = []
    for count in sorted({row.lists for row in rows if row.lists}):
        for name in names:
            pairs = []
            for seed in sorted({row.seed for row in rows}):
                base = _find(rows, seed, 0, INCOMING)
                one = _find(rows, seed, count, name)
                other = base if reference == INCOMING else _find(rows, seed, count, reference)
                unit, money = base.orders.mean(), base.gmv_minor.mean()
                pairs.append(((one.orders - other.orders) / unit, (one.gmv_minor - other.gmv_minor) / money))
            orders = np.concatenate([pair[0] for pair in pairs])
            found.append(
                Difference(
                    lists=count,
                    name=name,
                    reference=reference,
                    orders=float(orders.mean()),
                    error=float(orders.std(ddof=1) / np.sqrt(orders.size)),
                    gmv=float(np.concatenate([pair[1] for pair in pairs]).mean()),
                    by_seed=tuple(float(pair[0].mean()) for pair in pairs),
                )
            )
    return found


def bounds(rows: Sequence[Row]) -> dict[str, float]:
    """Return the orders of a random and of the best order over those of the incoming order, over all seeds."""
    total = {
        name: sum(float(row.orders.sum()) for row in rows if row.name == name) for name in (RANDOM, INCOMING, BEST)
    }
    return {name: total[name] / total[INCOMING] - 1 for name in (RANDOM, BEST)}


def _row(market: Market, log: ShopLog, *, seed: int, count: int, name: str, orders: Sequence[NDArray[np.int64]]) -> Row:
    found = [market.expect(shown.listing, order) for shown, order in zip(log.shown, orders, strict=True)]
    return Row(
        seed=seed,
        lists=count,
        name=name,
        orders=np.array([one.order for one in found]),
        gmv_minor=np.array([one.gmv_minor for one in found]),
    )


def _random_order(seed: int, shown: ShownList) -> NDArray[np.int64]:
    search = shown.listing.search
    return generator(seed, "random order", search.client, search.number).permutation(len(shown.example.item_ids))


def _find(rows: Sequence[Row], seed: int, count: int, name: str) -> Row:
    return next(row for row in rows if (row.seed, row.lists, row.name) == (seed, count, name))


def _with(dials: MarketplaceSettings, seed: int, hours: float) -> MarketplaceSettings:
    return replace(dials, seed=seed, hours=hours, concurrency=1)
