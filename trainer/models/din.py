"""DIN: target attention over the history and one tower per item, no encoder.

Source: Zhou et al., KDD 2018, arXiv 1706.06978.
"""

import torch
from torch import Tensor, nn

from trainer.configs.base import ModelConfig
from trainer.configs.din import DinConfig
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Drop, Dropout, Mlp, dropper, item_scores
from trainer.models.inputs import InputLayer, Inputs, Interest, VectorReader, base_features, base_width


class Tower(nn.Module):
    """DIN's tower: target attention over the history by ids, then two hidden layers per candidate.

    Shapes: result (B, n, tower[-1]).
    """

    def __init__(self, config: ModelConfig, tower: tuple[int, int]) -> None:
        super().__init__()
        self.attention = Interest(config, 3 * config.d)
        width = base_width(config, interest=True, modalities=config.modalities) + config.context
        self.hidden = Mlp((width, *tower), slopes=True)
        self.logit = nn.Linear(tower[-1], 1)

    def forward(self, inputs: Inputs, vectors: list[Tensor], drop: Drop) -> Tensor:
        """Return the last hidden layer."""
        interest = self.attention.of_ids(inputs)
        context = inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)
        features = torch.cat([base_features(inputs, interest, vectors), context], dim=-1)
        return torch.as_tensor(self.hidden(features, drop))


class Din(InputLayer):
    """DIN: one score per candidate, independent of the other candidates."""

    def __init__(self, config: DinConfig) -> None:
        super().__init__(config)
        self.vectors = nn.ModuleDict({modality: VectorReader(config, modality) for modality in config.modalities})
        self.din = Tower(config, config.tower)
        self.pcvr = nn.Linear(config.tower[-1], 1) if config.pcvr else None

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None) -> Outputs:
        """Score a batch, with dropout if it is given."""
        inputs = self.read(batch)
        vectors = [reader(batch).cand for reader in self.vectors.values()]
        hidden = self.din(inputs, vectors, dropper(dropout))
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), inputs.mask)
        return Outputs(item_scores(self.din.logit(hidden), inputs.mask), None, pcvr, {})
