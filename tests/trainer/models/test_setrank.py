"""SetRank against loops written from the definition of its blocks, and its induced form under the laws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.configs.setrank import PROFILES, SetRankConfig
from trainer.learning.losses import total_loss
from trainer.models import MODELS, Vocabulary, to_torch
from trainer.models.blocks import keep
from trainer.models.setrank import SetBlock

KNOWN = catalogue()
TINY = replace(PROFILES["tiny"], vocabulary=Vocabulary(item=200, shop=200, brand=200, category=200))
INDUCED = replace(TINY, block="imsab", points=5)

Matrix = NDArray[np.float64]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(module: nn.Module) -> dict[str, Matrix]:
    for seed, values in enumerate(module.parameters()):
        values.data.copy_(normal(*values.shape, seed=seed) * 0.4)
    return {name: values.numpy().astype(np.float64) for name, values in module.state_dict().items()}


def layer_norm(values: Matrix, weight: Matrix, bias: Matrix) -> Matrix:
    centred = values - values.mean()
    return np.asarray(centred / math.sqrt((centred**2).mean() + 1e-5) * weight + bias)


def attention_block(weights: dict[str, Matrix], prefix: str, heads: int, values: Matrix, others: Matrix) -> Matrix:
    """MAB(X, Y) of single lists without padding, row by row."""
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    head = values.shape[1] // heads
    rows = []
    for x in values:
        mixed: list[float] = []
        for start in range(0, values.shape[1], head):
            part = slice(start, start + head)
            query = (own["query.weight"] @ x)[part]
            chances = np.exp([query @ (own["key.weight"] @ y)[part] / math.sqrt(head) for y in others])
            chances /= chances.sum()
            mixed += list(sum(p * (own["value.weight"] @ y)[part] for p, y in zip(chances, others, strict=True)))
        attended = own["out.weight"] @ np.array(mixed) + own["out.bias"]
        hidden = layer_norm(x + attended, own["norm_attention.weight"], own["norm_attention.bias"])
        inner = np.maximum(own["ffn_in.weight"] @ hidden + own["ffn_in.bias"], 0)
        fed = own["ffn_out.weight"] @ inner + own["ffn_out.bias"]
        rows.append(layer_norm(hidden + fed, own["norm_ffn.weight"], own["norm_ffn.bias"]))
    return np.array(rows)


@pytest.mark.parametrize("config", [TINY, INDUCED], ids=["msab", "imsab"])
@torch.no_grad()
def test_blocks_are_those_of_the_paper(config: SetRankConfig) -> None:
    config = replace(config, width=8, heads=2)
    block = SetBlock(config)
    weights = stirred(block)
    values, mask = normal(2, 6, 8), torch.arange(6) < torch.tensor([[6], [4]])
    found = block(torch.where(mask[..., None], values, 9.0), mask, keep)
    for row, size in enumerate((6, 4)):
        items = values[row, :size].numpy().astype(np.float64)
        others = items
        if config.block == "imsab":
            others = attention_block(weights, "to_points.", 2, weights["induced.points"], items)
        expected = attention_block(weights, "to_items.", 2, items, others)
        np.testing.assert_allclose(found[row, :size].numpy(), expected, rtol=0, atol=1e-5)
        assert not found[row, size:].any()


def test_induced_blocks_obey_the_laws_of_lists() -> None:
    params = {name: values.requires_grad_() for name, values in MODELS["setrank"].init(INDUCED, 1).items()}
    plain = to_torch(batch_of([labelled(seed, KNOWN) for seed in range(5)]))
    outputs = MODELS["setrank"].forward(INDUCED, params, plain)
    rows = torch.from_numpy(np.random.default_rng(1).permutation(plain.cand_mask.shape[1]))
    fields = {field: values[:, rows] for field, values in plain._asdict().items() if field.startswith("cand_")}
    shuffled = MODELS["setrank"].forward(INDUCED, params, plain._replace(**fields)).logit
    torch.testing.assert_close(shuffled, outputs.logit[:, rows], rtol=0, atol=1e-5)
    alone = to_torch(batch_of([labelled(0, KNOWN)]))
    size = alone.cand_mask.shape[1]
    single = MODELS["setrank"].forward(INDUCED, params, alone).logit[0]
    torch.testing.assert_close(single, outputs.logit[0, :size], rtol=0, atol=1e-5)
    loss, _ = total_loss(outputs, plain, INDUCED)
    grads = torch.autograd.grad(loss, list(params.values()))
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)
    assert all(grad.any() for name, grad in zip(params, grads, strict=True) if "induced" in name)
