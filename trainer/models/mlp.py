"""MLP on list-relative features: the baseline that any list-wise model has to beat.

Source: docs/training.md.
"""

from dataclasses import dataclass

import torch
from torch import nn

from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Mlp, dropper, item_scores
from trainer.models.config import ModelConfig
from trainer.models.inputs import InputLayer, VectorReader, num_width


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


class MlpModel(InputLayer):
    """The hidden layers and heads of the baseline."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__(config)
        self.vectors = nn.ModuleDict({modality: VectorReader(config, modality) for modality in config.modalities})
        embeddings = config.d * (len(config.modalities) + config.uses_rank + 4 * config.ids)
        self.mlp = Mlp((num_width(config) + embeddings + config.context, *config.hidden))
        self.logit = nn.Linear(config.hidden[-1], 1)
        self.pcvr = nn.Linear(config.hidden[-1], 1) if config.pcvr else None
        self._ids = config.ids
        self._dropout = config.dropout

    def forward(self, batch: TensorBatch, generator: torch.Generator | None = None) -> Outputs:
        """Score a batch; a generator turns the dropout of the configuration on."""
        inputs = self.read(batch)
        parts = [inputs.num, inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)]
        parts += [reader(batch).cand for reader in self.vectors.values()]
        if inputs.rank is not None:
            parts.append(inputs.rank)
        if self._ids:
            parts += [inputs.entity, inputs.category]
        hidden = self.mlp(torch.cat(parts, dim=-1), dropper(self._dropout, generator))
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), inputs.mask)
        return Outputs(item_scores(self.logit(hidden), inputs.mask), None, pcvr, {})
