"""PRM: items with a personal vector and a rank embedding, encoder blocks over the list, list softmax.

Source: Pei et al., RecSys 2019, arXiv 1904.06813.
"""

import torch
from torch import nn

from trainer.configs.prm import PrmConfig
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Dropout, Encoder, dropper, item_scores
from trainer.models.din import Tower
from trainer.models.inputs import InputLayer, VectorReader, base_features, base_width


class Prm(InputLayer):
    """PRM: the encoder sees all candidates of a list at once."""

    def __init__(self, config: PrmConfig) -> None:
        super().__init__(config)
        self.vectors = nn.ModuleDict({modality: VectorReader(config, modality) for modality in config.modalities})
        self.personal = Tower(config, config.tower)
        width_in = base_width(config, interest=False, modalities=config.modalities) + config.tower[-1]
        self.input = nn.Linear(width_in, config.width)
        self.rank_input = nn.Linear(config.d, config.width, bias=False) if config.uses_rank else None
        self.encoder = Encoder(config.width, config.layers, config.heads, post_norm=config.post_norm)
        self.logit = nn.Linear(config.width, 1)
        self.pcvr = nn.Linear(config.width, 1) if config.pcvr else None
        self._trains_on_clicks = config.personal == "click"

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None) -> Outputs:
        """Score a batch, with dropout if it is given."""
        drop = dropper(dropout)
        inputs = self.read(batch)
        vectors = [reader(batch).cand for reader in self.vectors.values()]
        personal = self.personal(inputs, vectors, drop)
        click = None
        if self._trains_on_clicks:
            click = item_scores(self.personal.logit(personal), inputs.mask)
            personal = personal.detach()
        values = self.input(torch.cat([base_features(inputs, None, vectors), personal], dim=-1))
        if self.rank_input is not None:
            values = values + self.rank_input(inputs.rank)
        hidden = self.encoder(values, inputs.mask, drop)
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), inputs.mask)
        return Outputs(item_scores(self.logit(hidden), inputs.mask), click, pcvr, {})
