"""MMR against the definition, in plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.diversity import MMR_PROFILES, MmrConfig
from trainer.models import MODELS, to_torch

KNOWN = catalogue()


def greedy(relevance: list[float], vectors: list[list[float] | None], tradeoff: float) -> list[int]:
    """Return the items in the order of maximal marginal relevance."""
    spread = max(relevance) - min(relevance)
    scaled = [(value - min(relevance)) / spread for value in relevance]

    def similarity(i: int, j: int) -> float:
        a, b = vectors[i], vectors[j]
        if a is None or b is None:
            return 0.0
        return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))

    order: list[int] = []
    while len(order) < len(relevance):
        best, best_value = -1, -np.inf
        for i in range(len(relevance)):
            if i in order:
                continue
            nearest = max((similarity(i, j) for j in order), default=0.0)
            value = tradeoff * scaled[i] - (1 - tradeoff) * nearest
            if value > best_value:
                best, best_value = i, value
        order.append(best)
    return order


@pytest.mark.parametrize("tradeoff", [0.0, 0.3, 0.7, 1.0])
def test_sorting_by_the_score_is_the_greedy_order(tradeoff: float) -> None:
    config = replace(MMR_PROFILES["tiny"], tradeoff=tradeoff)
    batch = to_torch(batch_of([labelled(seed, KNOWN) for seed in range(6)]))
    with torch.no_grad():
        outputs = MODELS["mmr"].forward(config, MODELS["mmr"].init(config, 1), batch)
    assert outputs.relevance is not None
    for row in range(6):
        n = int(batch.cand_mask[row].sum())
        vectors = [batch.cand_txt[row, i].tolist() if batch.cand_txt_mask[row, i] else None for i in range(n)]
        expected = greedy(outputs.relevance[row, :n].tolist(), vectors, tradeoff)
        assert outputs.logit[row, :n].argsort(descending=True).tolist() == expected


def test_relevance_alone_orders_by_relevance() -> None:
    config = replace(MMR_PROFILES["tiny"], tradeoff=1.0)
    batch = to_torch(batch_of([labelled(seed, KNOWN) for seed in range(6)]))
    outputs = MODELS["mmr"].forward(config, MODELS["mmr"].init(config, 1), batch)
    assert outputs.relevance is not None
    torch.testing.assert_close(outputs.logit, outputs.relevance.detach(), rtol=0, atol=0.01)


def test_a_weight_above_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tradeoff = 1.5: expected at most 1"):
        MmrConfig(tradeoff=1.5)
