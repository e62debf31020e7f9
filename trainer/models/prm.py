"""PRM: items with a personal vector and a rank embedding, encoder blocks over the list, list softmax.

Source: MODELS.md 3.3; Pei et al., RecSys 2019, arXiv 1904.06813.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Initialiser, Params, dropper, encoder, init_encoder, linear
from trainer.models.config import ModelConfig
from trainer.models.din import init_tower, tower_hidden
from trainer.models.heads import init_pcvr, item_scores, pcvr_scores
from trainer.models.inputs import base_features, base_width, init_inputs, init_vectors, read_inputs, read_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmConfig(ModelConfig):
    """The encoder, and where the personal vector comes from.

    Attributes:
        width: w, width of the encoder.
        personal: `joint` trains the DIN tower behind pv with the list loss; `click` trains it by its own click head
            and lets no gradient of the list loss through (the original trains that model first).
        tower: Widths of the tower; pv is its last hidden layer.
    """

    width: int = 192
    heads: int = 6
    layers: int = 2
    post_norm: bool = False
    personal: Literal["joint", "click"] = "joint"
    tower: tuple[int, int] = (80, 40)

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


PROFILES = {
    "tiny": PrmConfig(
        vector_width=16,
        d=8,
        context=16,
        history=10,
        attention_hidden=(16, 8),
        width=32,
        heads=2,
        layers=1,
        tower=(32, 16),
    ),
    "paper": PrmConfig(),
}


def init(config: PrmConfig, seed: int) -> dict[str, Tensor]:
    """Return fresh weights."""
    weights = Initialiser(seed)
    init_inputs(weights, config)
    for modality in config.modalities:
        init_vectors(weights, config, modality)
    init_tower(weights, "personal", config, config.tower)
    inputs = base_width(config, interest=False, modalities=config.modalities) + config.tower[-1]
    weights.linear("input", inputs, config.width)
    if config.uses_rank:
        weights.linear("rank_input", config.d, config.width, bias=False)
    init_encoder(weights, "encoder", config.width, config.layers, post_norm=config.post_norm)
    weights.linear("logit", config.width, 1)
    init_pcvr(weights, config, config.width)
    return weights.params


def forward(config: PrmConfig, params: Params, batch: TensorBatch, generator: torch.Generator | None = None) -> Outputs:
    """Score a batch; a generator turns the dropout of the configuration on."""
    drop = dropper(config.dropout, generator)
    inputs = read_inputs(config, params, batch)
    vectors = [read_vectors(params, batch, modality).cand for modality in config.modalities]
    personal = tower_hidden(config, params, "personal", inputs, vectors, drop)
    click = None
    if config.personal == "click":
        click = item_scores(linear(params, "personal.logit", personal), inputs.mask)
        personal = personal.detach()
    values = linear(params, "input", torch.cat([base_features(inputs, None, vectors), personal], dim=-1))
    if inputs.rank is not None:
        values = values + linear(params, "rank_input", inputs.rank)
    hidden = encoder(
        params,
        "encoder",
        values,
        inputs.mask,
        layers=config.layers,
        heads=config.heads,
        post_norm=config.post_norm,
        drop=drop,
    )
    logit = item_scores(linear(params, "logit", hidden), inputs.mask)
    return Outputs(logit, click, pcvr_scores(config, params, hidden, inputs.mask), {})
