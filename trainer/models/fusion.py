"""CAFU, the context-aware fusion unit: weighs the modalities of each item by their means and the context.

Source: ARMMT (arXiv 2408.05751), equations 3-6; presence flags and missing rule: MODELS.md 2.2 and 2.6.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from trainer.models.blocks import Initialiser, Params, linear, masked_softmax
from trainer.models.config import MODALITIES

Activation = Literal["sigmoid", "relu", "softmax"]


def init_cafu(init: Initialiser, name: str, context: int, reduction: int) -> None:
    """Add the weights: W_1 from M + c (and M presence flags) to ceil((M + c) / r), W_2 to M."""
    modalities = len(MODALITIES)
    hidden = math.ceil((modalities + context) / reduction)
    init.linear(f"{name}.1", 2 * modalities + context, hidden)
    init.linear(f"{name}.2", hidden, modalities)


def cafu(
    params: Params, name: str, features: Tensor, present: Tensor, context: Tensor, *, activation: Activation
) -> tuple[Tensor, Tensor]:
    """Fuse the modalities of each item; returns the fused vector and the weights of the modalities.

    Shapes: features (B, n, M, d), present (B, n, M) True where the vector exists, context (B, c); results (B, n, d)
    and (B, n, M).
    Guarantees: a missing modality has mean 0, flag 0 and weight 0; under softmax the others share its weight.
    """
    features = torch.where(present.unsqueeze(-1), features, 0.0)
    means = features.mean(dim=-1)
    spread = context[:, None, :].expand(-1, features.shape[1], -1)
    hidden = torch.relu(linear(params, f"{name}.1", torch.cat([means, present.to(means.dtype), spread], dim=-1)))
    scores = linear(params, f"{name}.2", hidden)
    if activation == "softmax":
        weights = masked_softmax(scores, present)
    else:
        weights = torch.where(present, torch.sigmoid(scores) if activation == "sigmoid" else torch.relu(scores), 0.0)
    return (weights.unsqueeze(-1) * features).sum(dim=-2), weights
