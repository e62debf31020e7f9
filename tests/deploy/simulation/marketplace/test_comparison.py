"""The comparison of models by the truth, on a small shop and against sums over single lists."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from deploy.simulation.marketplace import comparison
from deploy.simulation.marketplace.comparison import BEST, INCOMING, RANDOM, Plan, Row
from deploy.simulation.marketplace.in_process import shop
from deploy.simulation.marketplace.market import Market
from deploy.simulation.marketplace.settings import MarketplaceSettings
from trainer.configs import MODEL_PROFILES, LearningSettings
from trainer.learning.determinism import make_deterministic
from trainer.learning.learner import Learner

SHOP = MarketplaceSettings(
    rate=600.0, clients=60, items=200, categories=2, list_ctr=0.4, conversion_boost=8.0, drain_h=1.0, concurrency=1
)


def fresh(seed: int) -> Learner:
    learning = LearningSettings(seed=seed, batch=8, lr=0.002)
    return Learner("mlp", MODEL_PROFILES["mlp"]["tiny"], learning, device=torch.device("cpu"))


@pytest.mark.no_cover
def test_rows_hold_each_order_of_the_same_lists() -> None:
    make_deterministic(1)
    said: list[str] = []
    rows = comparison.run(
        Plan(shop=SHOP, seeds=[4], lists=[20, 60], num_test=30, learners={"mlp": fresh}), report=said.append
    )
    assert [(row.lists, row.name) for row in rows] == [(0, INCOMING), (0, RANDOM), (0, BEST), (20, "mlp"), (60, "mlp")]
    assert {row.orders.shape for row in rows} == {(30,)}
    assert rows[1].orders.sum() < rows[0].orders.sum() < rows[2].orders.sum()
    assert not np.array_equal(rows[3].orders, rows[4].orders), "it has learned more"
    assert len(said) == 3
    again = comparison.run(Plan(shop=SHOP, seeds=[4], lists=[20, 60], num_test=30, learners={"mlp": fresh}))
    assert all(np.array_equal(one.orders, other.orders) for one, other in zip(rows, again, strict=True))


@pytest.mark.no_cover
def test_permuted_labels_are_learned_from_and_not_judged_by() -> None:
    make_deterministic(1)
    plan = Plan(shop=SHOP, seeds=[4], lists=[60], num_test=30, learners={"mlp": fresh})
    plain, permuted = comparison.run(plan), comparison.run(replace(plan, permute=True))
    for one, other in zip(plain[:3], permuted[:3], strict=True):
        assert np.array_equal(one.orders, other.orders)
    assert not np.array_equal(plain[3].orders, permuted[3].orders)


def test_only_so_many_lists_are_learned_and_none_of_the_test() -> None:
    log = shop(Market(replace(SHOP, hours=0.3)), num_shown=20)
    learner = fresh(1)
    left_out = {shown.example.query_id for shown in log.shown}
    assert list(comparison.learn(learner, log, left_out, [16, 40])) == [16, 40]
    seen = learner.counters["trained"] + len(learner.pending)
    assert 40 <= seen <= 40 + 20, "later revisions of the same lists come on top"


def row(seed: int, lists: int, name: str, orders: Sequence[float]) -> Row:
    values = np.array(orders)
    return Row(seed=seed, lists=lists, name=name, orders=values, gmv_minor=100 * values)


def test_differences_are_in_units_of_the_incoming_order() -> None:
    rows = [
        row(1, 0, INCOMING, [0.1, 0.3]),
        row(1, 50, "a", [0.2, 0.4]),
        row(1, 50, "b", [0.1, 0.4]),
        row(2, 0, INCOMING, [0.5, 0.5]),
        row(2, 50, "a", [0.5, 0.6]),
        row(2, 50, "b", [0.6, 0.6]),
    ]
    (over,) = comparison.differences(rows, ["a"], INCOMING)
    parts = np.array([0.5, 0.5, 0.0, 0.2])
    assert over.orders == pytest.approx(parts.mean())
    assert over.error == pytest.approx(parts.std(ddof=1) / 2)
    assert over.by_seed == pytest.approx((0.5, 0.1))
    assert over.gmv == pytest.approx(parts.mean())
    (less,) = comparison.differences(rows, ["b"], "a")
    assert less.by_seed == pytest.approx((-0.25, 0.1))
    assert (less.lists, less.name, less.reference) == (50, "b", "a")


def test_bounds_are_over_all_seeds() -> None:
    rows = [row(s, 0, name, [value]) for s in (1, 2) for name, value in ((INCOMING, 0.2), (RANDOM, 0.1), (BEST, 0.5))]
    assert comparison.bounds(rows) == pytest.approx({RANDOM: -0.5, BEST: 1.5})
