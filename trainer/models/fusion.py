"""CAFU, the context-aware fusion unit: weights of an item's modalities by their means and the context.

Source: ARMMT (arXiv 2408.05751), equations 3-6. The presence flags are an addition of Shelfwise.
"""

import math

import torch
from torch import Tensor, nn

from trainer.configs.armmt import Activation
from trainer.configs.base import MODALITIES
from trainer.models.blocks import masked_softmax


class Cafu(nn.Module):
    """Fusion of the modalities of each item.

    W_1 maps M + c inputs (and M presence flags) to ceil((M + c) / r) units, W_2 maps them to M weights.

    Guarantees: a missing modality has mean 0, flag 0 and weight 0; under softmax the others share its weight.
    """

    def __init__(self, context: int, reduction: int, activation: Activation) -> None:
        super().__init__()
        modalities = len(MODALITIES)
        hidden = math.ceil((modalities + context) / reduction)
        self.first = nn.Linear(2 * modalities + context, hidden)
        self.second = nn.Linear(hidden, modalities)
        self._activation = activation

    def forward(self, features: Tensor, present: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused vectors and the weights of the modalities.

        Shapes: features (B, n, M, d), present (B, n, M) True where the vector exists, context (B, c); results
        (B, n, d) and (B, n, M).
        """
        features = torch.where(present.unsqueeze(-1), features, 0.0)
        means = features.mean(dim=-1)
        spread = context[:, None, :].expand(-1, features.shape[1], -1)
        hidden = torch.relu(self.first(torch.cat([means, present.to(means.dtype), spread], dim=-1)))
        scores = self.second(hidden)
        if self._activation == "softmax":
            weights = masked_softmax(scores, present)
        else:
            active = torch.sigmoid(scores) if self._activation == "sigmoid" else torch.relu(scores)
            weights = torch.where(present, active, 0.0)
        return (weights.unsqueeze(-1) * features).sum(dim=-2), weights
