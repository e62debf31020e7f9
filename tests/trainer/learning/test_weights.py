"""Gradients and steps of the weights, and what a checkpoint keeps of them."""

import numpy as np
import pytest
import torch

from stream.errors import ArtifactError
from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs import LearningSettings
from trainer.features import Batch
from trainer.learning.weights import Gradients, Weights
from trainer.models import MODELS

CPU = torch.device("cpu")
LEARNING = LearningSettings(batch=4, warmup_steps=2)


def batch() -> Batch:
    known = catalogue()
    return batch_of([labelled(seed, known) for seed in range(4)])


def new_weights() -> Weights:
    return Weights("mlp", MODELS["mlp"].profiles["tiny"], LEARNING, CPU)


def gradients_of(weights: Weights, arrays: Batch) -> Gradients:
    replayed = np.zeros(len(arrays.cand_id), np.bool_)
    return weights.gradients(arrays, None, None, replayed, number=1, is_whole=True)


def values(weights: Weights) -> dict[str, bytes]:
    return {name: weight.detach().numpy().tobytes() for name, weight in weights.params.items()}


def slots(weights: Weights) -> dict[str, np.ndarray]:
    return {table: np.arange(capacity) for table, capacity in weights.capacities.items()}


def test_gradients_move_nothing_and_a_step_moves_the_touched_rows_only() -> None:
    weights, arrays = new_weights(), batch()
    weights.at_boundary(5_000, None, {})
    before = values(weights)
    found = gradients_of(weights, arrays)
    assert (values(weights) == before, found.is_finite, found.norm > 0.0) == (True, True, True)
    old = weights.params["rows.category"].detach().clone()
    weights.step(found)
    moved = np.flatnonzero((weights.params["rows.category"].detach() != old).any(dim=1).numpy())
    assert set(moved) <= set(found.touched["category"][1:])
    assert len(moved) > 0
    changed = np.flatnonzero(weights.is_changed("category", weights.capacities["category"], 5))
    assert np.array_equal(changed, found.touched["category"][1:])


def test_a_batch_without_a_label_is_no_step() -> None:
    weights, arrays = new_weights(), batch()
    weights.step(gradients_of(weights, arrays))
    before = values(weights)
    unlabelled = arrays._replace(click=np.zeros_like(arrays.click), conv=np.zeros_like(arrays.conv))
    found = gradients_of(weights, unlabelled)
    assert found.norm == 0.0
    weights.step(found)
    assert (values(weights), weights.num_steps) == (before, 1)


def test_a_checkpoint_keeps_weights_and_what_the_optimizers_remember() -> None:
    weights, resumed, arrays = new_weights(), new_weights(), batch()
    weights.step(gradients_of(weights, arrays))
    resumed.restore(weights.to_files(slots(weights)), weights.num_steps, boundary_ts=0)
    assert values(resumed) == values(weights)
    for each in (weights, resumed):
        each.step(gradients_of(each, arrays))
    assert (values(resumed), resumed.num_steps) == (values(weights), 2)


def test_weights_of_another_shape_are_refused() -> None:
    weights = new_weights()
    files = weights.to_files(slots(weights))
    name = next(iter(files["dense"]))
    damaged = {**files, "dense": {**files["dense"], name: files["dense"][name][:0]}}
    with pytest.raises(ArtifactError, match="not those of this model"):
        weights.restore(damaged, 0, 0)
