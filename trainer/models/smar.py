"""SMAR's page ranker: items of several types with an embedding of their type, attention across the items of a page.

Source: SMAR, arXiv 2510.16803; departures are in docs/training.md, "SMAR".
"""

import torch
from torch import Tensor, nn

from trainer.configs.smar import SmarConfig
from trainer.features.item_types import ITEM_TYPES, type_columns
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Dropout, Embedding, Encoder, dropper, item_scores, zero_unless
from trainer.models.inputs import InputLayer, Interest, VectorReader, base_features, base_width


class Smar(InputLayer):
    """The page ranker: one score for each item, which depends on all items of the page."""

    def __init__(self, config: SmarConfig) -> None:
        super().__init__(config)
        self.vectors = nn.ModuleDict({modality: VectorReader(config, modality) for modality in config.modalities})
        self.attention = Interest(config, 3 * config.d)
        width_in = base_width(config, interest=True, modalities=config.modalities) + config.context
        self.input = nn.Linear(width_in, config.width)
        # Row 0 stands for products and begins at 0: a page of products alone begins as without types.
        self.item_type = Embedding(len(ITEM_TYPES), config.width)
        self.encoder = Encoder(config.width, config.layers, config.heads)
        self.logit = nn.Linear(config.width, 1)
        self.pcvr = nn.Linear(config.width, 1) if config.pcvr else None
        self._columns = None if config.num_columns else type_columns(config.feature_schema)

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None) -> Outputs:
        """Score a batch, with dropout if it is given."""
        drop = dropper(dropout)
        inputs = self.read(batch)
        vectors = [reader(batch).cand for reader in self.vectors.values()]
        context = inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)
        values = self.input(torch.cat([base_features(inputs, self.attention.of_ids(inputs), vectors), context], dim=-1))
        if self._columns is not None:
            values = values + self.item_type(_codes(inputs.num[..., self._columns]))
        hidden = self.encoder(zero_unless(inputs.mask, values), inputs.mask, drop)
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), inputs.mask)
        return Outputs(item_scores(self.logit(hidden), inputs.mask), None, pcvr, {})


def _codes(columns: Tensor) -> Tensor:
    """Return the places of types in `ITEM_TYPES`, of columns of which at most one is 1."""
    places = torch.arange(1, len(ITEM_TYPES), device=columns.device, dtype=columns.dtype)
    return (columns * places).sum(dim=-1).long().clamp(0, len(ITEM_TYPES) - 1)
