"""DLCM against `torch.nn.GRU`, and against loops written from the paper's scoring function."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.dlcm import PROFILES
from trainer.models import MODELS, Vocabulary, to_torch
from trainer.models.dlcm import Dlcm, Gru, LocalContext
from trainer.models.inputs import base_features

KNOWN = catalogue()
TINY = replace(PROFILES["tiny"], vocabulary=Vocabulary(item=200, shop=200, brand=200, category=200))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(module: nn.Module) -> None:
    for seed, values in enumerate(module.parameters()):
        values.data.copy_(normal(*values.shape, seed=seed) * 0.3)


def torch_gru(unit: Gru, width_in: int, width: int) -> nn.GRU:
    found = nn.GRU(width_in, width, batch_first=True)
    weights = (unit.of_input.weight, unit.of_state.weight, unit.of_input.bias, unit.of_state.bias)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    found.load_state_dict(dict(zip(names, weights, strict=True)))
    return found


@torch.no_grad()
def test_the_unit_is_that_of_torch_from_the_last_row_to_the_first() -> None:
    unit = Gru(5, 4)
    stirred(unit)
    values, mask = normal(3, 7, 5), torch.arange(7) < torch.tensor([[7], [3], [1]])
    outputs, state = unit(torch.where(mask[..., None], values, torch.nan), mask)
    for row, size in enumerate((7, 3, 1)):
        expected, final = torch_gru(unit, 5, 4)(values[row : row + 1, :size].flip(1))
        torch.testing.assert_close(outputs[row, :size], expected[0].flip(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(state[row], final[0, 0], rtol=0, atol=1e-6)
        assert not outputs[row, size:].any()


@torch.no_grad()
def test_the_scoring_function_multiplies_outputs_by_a_tensor_of_the_final_state() -> None:
    unit = LocalContext(4, 3)
    stirred(unit)
    outputs, state = normal(2, 5, 4), normal(2, 4, seed=1)
    hidden = unit(outputs, state).numpy()
    weight = unit.tensor.weight.numpy().astype(np.float64).reshape(4, 3, 4)
    bias = unit.tensor.bias.numpy().astype(np.float64).reshape(4, 3)
    for lists in range(2):
        matrix = np.tanh(np.array([[weight[a, k] @ state[lists].numpy() for k in range(3)] for a in range(4)]) + bias)
        for item in range(5):
            expected = [sum(outputs[lists, item, a].item() * matrix[a, k] for a in range(4)) for k in range(3)]
            assert hidden[lists, item].tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_the_module_reads_each_list_by_rank_and_scores_by_the_final_state() -> None:
    weights = MODELS["dlcm"].init(TINY, 3)
    for seed, values in enumerate(weights.values()):
        values.add_(normal(*values.shape, seed=seed), alpha=0.05)
    module = MODELS["dlcm"].load(TINY, weights)
    assert isinstance(module, Dlcm)
    plain = batch_of([labelled(seed, KNOWN) for seed in range(4)])
    rows = np.random.default_rng(2).permutation(plain.cand_mask.shape[1])
    shuffled = {field: column[:, rows] for field, column in plain._asdict().items() if field.startswith("cand_")}
    batch = to_torch(plain._replace(**shuffled))
    inputs = module.read(batch)
    vectors = [reader(batch).cand for reader in module.vectors.values()]
    base = base_features(inputs, module.attention.of_ids(inputs), vectors)
    scores = module(batch, None).logit
    for lists in range(4):
        kept = [row for row in range(len(rows)) if batch.cand_mask[lists, row]]
        kept.sort(key=lambda row: int(batch.cand_rank[lists, row]))
        features = torch.cat([base[lists, kept], inputs.context[lists].expand(len(kept), -1)], dim=1)
        abstract = nn.functional.elu(module.abstract_out(nn.functional.elu(module.abstract_in(features))))
        values = torch.cat([features, abstract], dim=1)
        outputs, final = torch_gru(module.gru, values.shape[1], TINY.width)(values.flip(0)[None])
        expected = module.logit(module.local(outputs[0].flip(0)[None], final[0]))[0, :, 0]
        torch.testing.assert_close(scores[lists, kept], expected, rtol=0, atol=1e-5)
