"""The base of models that reorder a list by relevance and diversity.

The relevance is learned: DIN's tower with a list softmax. The similarity is that of the catalogue's vectors, and the
greedy order and its setting are not learned.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.configs.base import PLACE_STEP, Modality
from trainer.configs.diversity import DiversityConfig
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Dropout, dropper, item_scores, wide, zero_unless
from trainer.models.din import Tower
from trainer.models.inputs import InputLayer, VectorReader


class Diversity(InputLayer, ABC):
    """A learned relevance, and a greedy order on top of it.

    `logit` gives each place of the greedy order the relevance that stands there without diversity, so that sorting by
    it is the greedy order. `relevance` is what the main loss trains.
    """

    def __init__(self, config: DiversityConfig) -> None:
        super().__init__(config)
        self.vectors = nn.ModuleDict({modality: VectorReader(config, modality) for modality in config.modalities})
        self.tower = Tower(config, config.tower)
        self.pcvr = nn.Linear(config.tower[-1], 1) if config.pcvr else None
        self._modalities = config.modalities

    @abstractmethod
    def gain(self, relevance: Tensor, mask: Tensor) -> "Gain":
        """Return what the greedy order maximises at each place; float64."""

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None) -> Outputs:
        """Score a batch, with dropout if it is given."""
        inputs = self.read(batch)
        vectors = [reader(batch).cand for reader in self.vectors.values()]
        hidden = self.tower(inputs, vectors, dropper(dropout))
        relevance = item_scores(self.tower.logit(hidden), inputs.mask)
        with torch.no_grad():
            similarity = similarities(batch, self._modalities)
            place = places(self.gain(relevance.double(), inputs.mask), similarity, inputs.mask)
            logit = by_place(wide(relevance), place, inputs.mask)
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), inputs.mask)
        return Outputs(logit, None, pcvr, {}, relevance)


class Gain(ABC):
    """The marginal gain of each item, given those that are chosen.

    Shapes: values (B, n), float64, larger is better; only those of items that are not chosen count.
    """

    @abstractmethod
    def values(self) -> Tensor:
        """Return the gain of each item."""

    @abstractmethod
    def choose(self, item: Tensor, similarity: Tensor) -> None:
        """Take one item of each list: `item` (B,), `similarity` (B, n, n)."""


def similarities(batch: TensorBatch, modalities: tuple[Modality, ...]) -> Tensor:
    """Return the mean over modalities of the cosines of the candidates' vectors, in float64.

    Shapes: (B, n, n).
    Guarantees: positive semi-definite with ones on the diagonal; an item without a vector is like no other.
    """
    mask = batch.cand_mask
    same = torch.eye(mask.shape[1], dtype=torch.float64, device=mask.device).expand(len(mask), -1, -1)
    found: list[Tensor] = []
    for modality in modalities:
        vectors, present = batch.cand_txt, batch.cand_txt_mask
        if modality == "image":
            vectors, present = batch.cand_img, batch.cand_img_mask
        unit = functional.normalize(zero_unless(present & mask, vectors.double()), dim=-1)
        cosines = torch.matmul(unit, unit.transpose(1, 2))
        found.append(torch.where(same > 0, 1.0, cosines))
    return torch.stack(found).mean(dim=0) if found else same


def places(gain: Gain, similarity: Tensor, mask: Tensor) -> Tensor:
    """Return the place of each item in the greedy order, from 0; of equal gains the first row wins.

    Shapes: similarity (B, n, n), mask (B, n); result (B, n), int64, padding last.
    """
    n = mask.shape[1]
    rows = torch.arange(n, device=mask.device)
    free = mask.clone()
    place = torch.full_like(mask, n - 1, dtype=torch.int64)
    for step in range(n):
        item = torch.where(free, gain.values(), -torch.inf).argmax(dim=1)
        chosen = (rows == item[:, None]) & free
        place = torch.where(chosen, step, place)
        free = free & ~chosen
        gain.choose(item, similarity)
    return place


def by_place(relevance: Tensor, place: Tensor, mask: Tensor) -> Tensor:
    """Return scores that fall with the place, of the size of the relevance at that place; 0 at padding."""
    in_order = torch.where(mask, relevance, -torch.inf).sort(dim=1, descending=True).values
    return torch.where(mask, in_order.gather(1, place) - PLACE_STEP * place, 0.0)
