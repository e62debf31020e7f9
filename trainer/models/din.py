"""DIN: target attention over the history and one tower per item, no encoder.

Source: MODELS.md 3.2; Zhou et al., KDD 2018, arXiv 1706.06978.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Drop, Initialiser, Params, dropper, init_mlp, linear, mlp
from trainer.models.config import ModelConfig
from trainer.models.heads import init_pcvr, item_scores, pcvr_scores
from trainer.models.inputs import (
    Inputs,
    base_features,
    base_width,
    id_interest,
    init_inputs,
    init_interest,
    init_vectors,
    read_inputs,
    read_vectors,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DinConfig(ModelConfig):
    """DIN's attention and tower.

    Attributes:
        tower: Widths of the tower's hidden layers.
    """

    attention: Literal["softmax", "raw"] = "raw"
    tower: tuple[int, int] = (80, 40)


PROFILES = {
    "tiny": DinConfig(vector_width=16, d=8, context=16, history=10, attention_hidden=(16, 8), tower=(32, 16)),
    "paper": DinConfig(),
}


def init_tower(init: Initialiser, name: str, config: ModelConfig, tower: tuple[int, int]) -> None:
    """Add the weights of `tower_hidden` under a prefix."""
    init_interest(init, config, f"{name}.attention", 3 * config.d)
    width = base_width(config, interest=True, modalities=config.modalities) + config.context
    init_mlp(init, f"{name}.tower", (width, *tower), prelu_slopes=True)
    init.linear(f"{name}.logit", tower[-1], 1)


def tower_hidden(
    config: ModelConfig, params: Params, name: str, inputs: Inputs, vectors: list[Tensor], drop: Drop
) -> Tensor:
    """Return the tower's last hidden layer.

    Shapes: (B, n, tower[-1]).
    """
    interest = id_interest(config, params, f"{name}.attention", inputs)
    context = inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)
    features = torch.cat([base_features(inputs, interest, vectors), context], dim=-1)
    return mlp(params, f"{name}.tower", features, layers=2, drop=drop)


def init(config: DinConfig, seed: int) -> dict[str, Tensor]:
    """Return fresh weights."""
    weights = Initialiser(seed)
    init_inputs(weights, config)
    for modality in config.modalities:
        init_vectors(weights, config, modality)
    init_tower(weights, "din", config, config.tower)
    init_pcvr(weights, config, config.tower[-1])
    return weights.params


def forward(config: DinConfig, params: Params, batch: TensorBatch, generator: torch.Generator | None = None) -> Outputs:
    """Score a batch; a generator turns the dropout of the configuration on."""
    inputs = read_inputs(config, params, batch)
    vectors = [read_vectors(params, batch, modality).cand for modality in config.modalities]
    hidden = tower_hidden(config, params, "din", inputs, vectors, dropper(config.dropout, generator))
    logit = item_scores(linear(params, "din.logit", hidden), inputs.mask)
    return Outputs(logit, None, pcvr_scores(config, params, hidden, inputs.mask), {})
