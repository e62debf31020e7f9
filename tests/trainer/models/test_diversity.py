"""The parts that MMR and DPP share: similarities, the greedy order, scores that sort into it, and what is trained."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.base import Modality
from trainer.learning.losses import total_loss
from trainer.models import MODELS, TensorBatch, to_torch
from trainer.models.diversity import Gain, by_place, places, similarities

KNOWN = catalogue()


@pytest.fixture
def batch() -> TensorBatch:
    return to_torch(batch_of([labelled(seed, KNOWN) for seed in range(5)]))


def cosine(first: Tensor, second: Tensor) -> float:
    a, b = first.numpy().astype(np.float64), second.numpy().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("modalities", [("text",), ("image", "text"), ()], ids=str)
def test_similarity_is_the_mean_cosine_and_an_item_without_a_vector_is_like_no_other(
    batch: TensorBatch, modalities: tuple[Modality, ...]
) -> None:
    columns = {"text": (batch.cand_txt, batch.cand_txt_mask), "image": (batch.cand_img, batch.cand_img_mask)}
    found = similarities(batch, modalities)
    n = int(batch.cand_mask[1].sum())
    for i in range(n):
        for j in range(n):
            terms = []
            for modality in modalities:
                vectors, present = columns[modality]
                both = bool(present[1, i] and present[1, j])
                terms.append(cosine(vectors[1, i], vectors[1, j]) if both else 0.0)
            expected = 1.0 if i == j else float(np.mean(terms)) if terms else 0.0
            assert found[1, i, j].item() == pytest.approx(expected, abs=1e-9)
    assert torch.linalg.eigvalsh(found).min().item() > -1e-9


class Fixed(Gain):
    def __init__(self, values: Tensor) -> None:
        self.fixed = values

    def values(self) -> Tensor:
        return self.fixed

    def choose(self, item: Tensor, similarity: Tensor) -> None:
        del item, similarity


def test_places_fall_with_the_gain_and_padding_comes_last() -> None:
    gain = torch.tensor([[1.0, 3.0, 2.0, 9.0], [5.0, 5.0, 7.0, 6.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    assert places(Fixed(gain), torch.zeros(2, 4, 4), mask).tolist() == [[2, 0, 1, 3], [2, 3, 0, 1]]


def test_scores_sort_into_the_places_even_where_relevance_is_equal() -> None:
    relevance = torch.tensor([[0.5, 0.5, -3.0, 0.5, 8.0]])
    mask = torch.tensor([[True, True, True, True, False]])
    score = by_place(relevance, torch.tensor([[2, 0, 1, 3, 4]]), mask)
    assert score[0, :4].argsort(descending=True).tolist() == [1, 2, 0, 3]
    assert score[0].tolist() == pytest.approx([0.5, 0.5, 0.5, -3.0, 0.0], abs=1e-3)


@pytest.mark.parametrize("name", ["mmr", "dpp"])
def test_the_main_loss_trains_the_relevance_and_not_the_order(name: str, batch: TensorBatch) -> None:
    config = MODELS[name].profiles["tiny"]
    params = {weight: values.requires_grad_() for weight, values in MODELS[name].init(config, 0).items()}
    outputs = MODELS[name].forward(config, params, batch)
    assert outputs.relevance is not None
    assert not outputs.logit.requires_grad
    loss, _ = total_loss(outputs, batch, config)
    expected, _ = total_loss(outputs._replace(logit=outputs.relevance, relevance=None), batch, config)
    assert loss.item() == expected.item()
    differs = (outputs.logit.argsort(dim=1) != outputs.relevance.argsort(dim=1)).any()
    assert bool(differs)
