"""DPP against determinants of the kernel, recomputed for each choice."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.diversity import DPP_PROFILES, DppConfig
from trainer.models import MODELS, to_torch
from trainer.models.diversity import places, similarities
from trainer.models.dpp import Determinant

KNOWN = catalogue()


def greedy(kernel: NDArray[np.float64], relevance: list[float]) -> list[int]:
    """Return the items in the order in which they raise log det most, the rest by relevance."""
    order: list[int] = []
    while len(order) < len(kernel):
        free = [i for i in range(len(kernel)) if i not in order]
        # The determinant of items in the span of others is 0 but for rounding.
        spans = {i: np.linalg.matrix_rank(kernel[np.ix_([*order, i], [*order, i])], tol=1e-8) for i in free}
        regular = [i for i in free if spans[i] == len(order) + 1]
        if not regular:
            return order + sorted(free, key=lambda i: -relevance[i])
        order.append(max(regular, key=lambda i: np.linalg.slogdet(kernel[np.ix_([*order, i], [*order, i])])[1]))
    return order


@pytest.mark.parametrize("theta", [0.0, 0.5, 0.9])
def test_sorting_by_the_score_is_the_greedy_order_by_determinants(theta: float) -> None:
    config = replace(DPP_PROFILES["tiny"], theta=theta, modalities=("image", "text"))
    batch = to_torch(batch_of([labelled(seed, KNOWN, n=12) for seed in range(6)]))
    with torch.no_grad():
        outputs = MODELS["dpp"].forward(config, MODELS["dpp"].init(config, 1), batch)
    assert outputs.relevance is not None
    for row in range(6):
        relevance = outputs.relevance[row].tolist()
        quality = [math.exp(theta / (2 * (1 - theta)) * value) for value in relevance]
        kernel = np.outer(quality, quality) * similarities(batch, ("image", "text"))[row].numpy()
        assert outputs.logit[row].argsort(descending=True).tolist() == greedy(kernel, relevance)


def test_items_in_the_span_of_those_above_come_last_by_relevance() -> None:
    # Two directions, five items: after one item of each direction nothing is left.
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    relevance = [0.1, 0.4, 0.2, -1.0, 0.3]
    similarity = torch.from_numpy(vectors @ vectors.T)[None]
    gain = Determinant(torch.tensor([relevance], dtype=torch.float64), 0.5)
    place = places(gain, similarity, torch.ones(1, 5, dtype=torch.bool))
    assert place[0].argsort().tolist() == [1, 2, 4, 0, 3]


def test_a_near_copy_falls_behind_a_less_relevant_other_item() -> None:
    vectors = np.array([[1.0, 0.0, 0.0], [0.999, math.sqrt(1 - 0.999**2), 0.0], [0.0, 0.0, 1.0]])
    similarity = torch.from_numpy(vectors @ vectors.T)[None]
    gain = Determinant(torch.tensor([[1.0, 0.9, 0.1]], dtype=torch.float64), 0.7)
    assert places(gain, similarity, torch.ones(1, 3, dtype=torch.bool))[0].tolist() == [0, 2, 1]


def test_a_weight_of_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"theta = 1.0: expected less than 1"):
        DppConfig(theta=1.0)
