"""Heads: one number per candidate, 0 at padding."""

import torch
from torch import Tensor

from trainer.models.blocks import Initialiser, Params, linear
from trainer.models.config import ModelConfig


def item_scores(column: Tensor, mask: Tensor) -> Tensor:
    """Return [B,n] of [B,n,1], padded candidates 0."""
    return torch.where(mask, column.squeeze(-1), 0.0)


def init_pcvr(init: Initialiser, config: ModelConfig, width: int) -> None:
    """Add the head for probabilities if the configuration has it."""
    if config.pcvr:
        init.linear("pcvr", width, 1)


def pcvr_scores(config: ModelConfig, params: Params, hidden: Tensor, mask: Tensor) -> Tensor | None:
    """Return the logits of P(order given click), or None without the head."""
    return item_scores(linear(params, "pcvr", hidden), mask) if config.pcvr else None
