"""PRM: items with a personal vector and a rank embedding, encoder blocks over the list, list softmax.

Source: Pei et al., RecSys 2019, arXiv 1904.06813.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Encoder, dropper, item_scores
from trainer.models.config import ModelConfig
from trainer.models.din import Tower
from trainer.models.inputs import InputLayer, VectorReader, base_features, base_width


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmConfig(ModelConfig):
    """Sizes of the encoder, and the source of the personal vector.

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
        self._dropout = config.dropout

    def forward(self, batch: TensorBatch, generator: torch.Generator | None = None) -> Outputs:
        """Score a batch; a generator turns the dropout of the configuration on."""
        drop = dropper(self._dropout, generator)
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
