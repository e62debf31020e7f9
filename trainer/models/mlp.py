"""MLP on list-relative features: the baseline that any list-wise model has to beat.

Source: MODELS.md 3.1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Initialiser, Params, dropper, init_mlp, linear, mlp
from trainer.models.config import ModelConfig
from trainer.models.heads import init_pcvr, item_scores, pcvr_scores
from trainer.models.inputs import init_inputs, init_vectors, num_width, read_inputs, read_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpConfig(ModelConfig):
    """The hidden layers, and whether id embeddings are read beside the numbers.

    Attributes:
        hidden: Widths of the hidden layers.
        ids: Whether item, shop, brand and category embeddings are features.
    """

    hidden: tuple[int, int] = (64, 64)
    ids: bool = False


PROFILES = {
    "tiny": MlpConfig(vector_width=16, d=8, context=16, history=10, hidden=(32, 32)),
    "paper": MlpConfig(),
}


def init(config: MlpConfig, seed: int) -> dict[str, Tensor]:
    """Return fresh weights."""
    weights = Initialiser(seed)
    init_inputs(weights, config)
    for modality in config.modalities:
        init_vectors(weights, config, modality)
    embeddings = config.d * (len(config.modalities) + config.uses_rank + 4 * config.ids)
    init_mlp(weights, "mlp", (num_width(config) + embeddings + config.context, *config.hidden))
    weights.linear("logit", config.hidden[-1], 1)
    init_pcvr(weights, config, config.hidden[-1])
    return weights.params


def forward(config: MlpConfig, params: Params, batch: TensorBatch, generator: torch.Generator | None = None) -> Outputs:
    """Score a batch; a generator turns the dropout of the configuration on."""
    inputs = read_inputs(config, params, batch)
    parts = [inputs.num, inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)]
    parts += [read_vectors(params, batch, modality).cand for modality in config.modalities]
    if inputs.rank is not None:
        parts.append(inputs.rank)
    if config.ids:
        parts += [inputs.entity, inputs.category]
    drop = dropper(config.dropout, generator)
    hidden = mlp(params, "mlp", torch.cat(parts, dim=-1), layers=2, drop=drop)
    logit = item_scores(linear(params, "logit", hidden), inputs.mask)
    return Outputs(logit, None, pcvr_scores(config, params, hidden, inputs.mask), {})
