from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.replicas.catalogue import Catalogue
from tests.trainer.session_log import START_TS, make_items, make_session
from trainer.configs import LearningSettings
from trainer.features import TABLES, Batch, collate, example_from_session
from trainer.features.id_maps import IdMaps
from trainer.learning.optimizer import DenseOptimizer, RowOptimizer, gather_unique_rows
from trainer.models import MODELS, ModelConfig, to_torch

CAPACITIES = {"item": 60, "shop": 9, "brand": 9, "category": 9}


def make_batch(config: ModelConfig, seed: int = 0, sessions: int = 6) -> Batch:
    rng = np.random.default_rng(seed)
    catalogue = Catalogue(make_items())
    maps = IdMaps.empty(CAPACITIES)
    examples = [
        example_from_session(make_session(number, rng, watermark_ts=START_TS, orders=[1]), catalogue)
        for number in range(sessions)
    ]
    for kind, id_map in enumerate(maps.by_name().values()):
        for example in examples[::2]:
            id_map.observe(example.entity[kind] * 2)
        id_map.at_boundary(0)
    return collate(examples, maps, width=config.vector_width, history=config.history)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50))
def test_gathered_rows_are_those_of_the_slots(seed: int) -> None:
    batch = make_batch(MODELS["prm"].profiles["tiny"], seed)
    local, touched = gather_unique_rows(batch)
    for kind, table in enumerate(TABLES):
        assert touched[table][0] == 0
        assert (np.diff(touched[table]) > 0).all()
        np.testing.assert_array_equal(touched[table][local.cand_id[..., kind]], batch.cand_id[..., kind])
        np.testing.assert_array_equal(touched[table][local.hist_id[..., kind]], batch.hist_id[..., kind])
    np.testing.assert_array_equal(touched["category"][local.query_category], batch.query_category)


def test_scores_of_gathered_rows_equal_those_of_whole_tables() -> None:
    spec = MODELS["armmt"]
    config = spec.profiles["tiny"]
    params = spec.init(config, 0)
    batch = make_batch(config)
    local, touched = gather_unique_rows(batch)
    rows = {f"rows.{table}": params[f"rows.{table}"][torch.from_numpy(own)] for table, own in touched.items()}
    whole = spec.forward(config, params, to_torch(batch)).logit
    gathered = spec.forward(config, params | rows, to_torch(local)).logit
    assert torch.equal(whole, gathered)


def test_row_wise_adagrad_by_hand() -> None:
    table = torch.zeros(4, 2)
    learning = LearningSettings(rows_lr=0.5, accumulator=0.1, accumulator_decay_per_day=0.25)
    optimizer = RowOptimizer({"item": table}, learning)
    gradient = torch.tensor([[9.0, 9.0], [3.0, 1.0]])
    optimizer.step("item", np.array([0, 2]), gradient)
    accumulator = 0.1 + (9 + 1) / 2
    assert optimizer.accumulators["item"].tolist() == pytest.approx([0.1, 0.1, accumulator, 0.1])
    assert table[2].tolist() == pytest.approx([-0.5 * 3 / accumulator**0.5, -0.5 / accumulator**0.5])
    assert table[[0, 1, 3]].count_nonzero() == 0
    # A quarter of the sum is left after a day, then the floor.
    for days, left in [(1, accumulator / 4), (2, accumulator / 16), (30, 0.1)]:
        optimizer.advance(days * 86_400)
        again = torch.zeros(2, 2)
        again[1] = 1e-6
        optimizer.step("item", np.array([0, 2]), again)
        assert optimizer.accumulators["item"].tolist() == pytest.approx([0.1, 0.1, max(left, 0.1), 0.1])
    assert optimizer.changed_s["item"].tolist() == [0, 0, 30 * 86_400, 0]


def test_admitted_rows_start_from_the_cold_row() -> None:
    table = torch.arange(8.0).reshape(4, 2)
    optimizer = RowOptimizer({"item": table}, LearningSettings(rows_lr=0.5, accumulator=0.1))
    optimizer.step("item", np.array([0, 3]), torch.ones(2, 2))
    optimizer.admit("item", np.array([3]))
    assert torch.equal(table[3], table[1])
    assert optimizer.accumulators["item"][3] == pytest.approx(0.1)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["adamw", "adagrad"])
def test_a_restored_dense_optimizer_goes_on_alike(kind: Literal["adamw", "adagrad"], *, fused: bool) -> None:
    def make() -> tuple[torch.Tensor, DenseOptimizer]:
        weight = torch.ones(3).requires_grad_()
        return weight, DenseOptimizer({"w": weight}, LearningSettings(optimizer=kind, lr=0.1, fused=fused))

    one, first = make()
    other, second = make()
    for step in range(6):
        if step == 3:
            with torch.no_grad():
                other.copy_(one)
            second.restore({name: value.clone() for name, value in first.to_tensors().items()})
        for weight, optimizer in [(one, first)] + ([(other, second)] if step >= 3 else []):
            weight.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
            optimizer.step()
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.ones(3))


def test_weight_decay_shrinks_matrices_only() -> None:
    weights = {"matrix": torch.ones(2, 2).requires_grad_(), "bias": torch.ones(2).requires_grad_()}
    optimizer = DenseOptimizer(weights, LearningSettings(lr=0.1, weight_decay=0.5))
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weights["bias"], torch.ones(2))
    torch.testing.assert_close(weights["matrix"].detach(), torch.full((2, 2), 0.95))


@pytest.mark.parametrize("kind", ["adamw", "adagrad"])
def test_a_share_of_the_rate_makes_a_smaller_step(kind: Literal["adamw", "adagrad"]) -> None:
    moved = []
    for rate in (1.0, 0.25):
        weight = torch.ones(3).requires_grad_()
        weight.grad = torch.tensor([1.0, -2.0, 0.5])
        DenseOptimizer({"w": weight}, LearningSettings(optimizer=kind, lr=0.1)).step(rate)
        moved.append(1 - weight.detach())
    torch.testing.assert_close(moved[1], moved[0] / 4)


@pytest.mark.parametrize("kind", ["adamw", "adagrad"])
def test_the_fused_form_makes_the_same_steps(kind: Literal["adamw", "adagrad"]) -> None:
    ends = []
    for fused in (False, True):
        weight = torch.ones(3).requires_grad_()
        optimizer = DenseOptimizer({"w": weight}, LearningSettings(optimizer=kind, lr=0.1, fused=fused))
        for step in range(5):
            weight.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
            optimizer.step(0.5)
        ends.append(weight.detach())
    torch.testing.assert_close(ends[0], ends[1])
