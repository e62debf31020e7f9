from typing import Literal

import numpy as np
import pytest
import torch

from trainer.configs import LearningSettings
from trainer.learning.optimizer import DenseOptimizer, RowOptimizer


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
