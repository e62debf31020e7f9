"""MLP on list-relative features: the baseline that any list-wise model has to beat.

Source: docs/training.md.
"""

import torch
from torch import nn

from trainer.configs.mlp import MlpConfig
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Dropout, Mlp, dropper, item_scores
from trainer.models.inputs import InputLayer, VectorReader, num_width


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

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None) -> Outputs:
        """Score a batch, with dropout if it is given."""
        inputs = self.read(batch)
        parts = [inputs.num, inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)]
        parts += [reader(batch).cand for reader in self.vectors.values()]
        if inputs.rank is not None:
            parts.append(inputs.rank)
        if self._ids:
            parts += [inputs.entity, inputs.category]
        hidden = self.mlp(torch.cat(parts, dim=-1), dropper(dropout))
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), inputs.mask)
        return Outputs(item_scores(self.logit(hidden), inputs.mask), None, pcvr, {})
