"""ARMMT: multimodal fusion by context, self-attention from several perspectives, and a click task on the fused part.

Source: Advancing Re-Ranking with Multimodal Fusion and Target-Oriented Auxiliary Tasks, arXiv 2408.05751; equation
numbers are the paper's. Open points of the paper and their defaults are switches of `ArmmtConfig`.
"""

import torch
from torch import Tensor, nn

from trainer.configs.armmt import ArmmtConfig
from trainer.configs.base import MODALITIES, Modality
from trainer.models.batch import Outputs, TensorBatch
from trainer.models.blocks import Drop, Dropout, Encoder, Mlp, dropper, item_scores, zero_unless
from trainer.models.fusion import Cafu
from trainer.models.inputs import (
    InputLayer,
    Inputs,
    Interest,
    VectorReader,
    Vectors,
    base_features,
    base_width,
    num_columns,
)

_FIELDS = ("price", "sales")


def _columns(config: ArmmtConfig, name: str) -> list[int]:
    return [column for column, label in enumerate(num_columns(config)) if label.startswith(name)]


def _perspectives(config: ArmmtConfig) -> tuple[str, ...]:
    """Return the names of the parts of (11), in order."""
    fields = _FIELDS if config.perspectives else ()
    return (*fields, *(("mm",) if config.cafu else ()), *(("id",) if config.id_perspective else ()))


class Perspective(nn.Module):
    """One perspective on the candidates: a linear map to the width of the encoder, then the encoder."""

    def __init__(self, config: ArmmtConfig, width_in: int, layers: int) -> None:
        super().__init__()
        self.input = nn.Linear(width_in, config.width)
        self.encoder = Encoder(config.width, layers, config.heads, post_norm=config.post_norm)

    def forward(self, features: Tensor, mask: Tensor, drop: Drop) -> Tensor:
        """Return the encoded candidates [B,n,w]."""
        return torch.as_tensor(self.encoder(zero_unless(mask, self.input(features)), mask, drop))


class ModalityReader(VectorReader):
    """One modality: its vectors, and the interest that the history shows in it."""

    def __init__(self, config: ArmmtConfig, modality: Modality) -> None:
        super().__init__(config, modality)
        self.attention = Interest(config, config.d) if config.personalised else None

    def interest(self, inputs: Inputs, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """Return p_i^m and its presence: the candidate needs a vector, and so does one behaviour."""
        assert self.attention is not None, "only personalised models have interests"
        present = vectors.cand_mask & vectors.hist_mask.any(dim=1, keepdim=True)
        return zero_unless(present, self.attention.of_vectors(inputs, vectors)), present


class Multimodal(nn.Module):
    """H^mm: fusion of items and of interests, equations 7 to 10."""

    def __init__(self, config: ArmmtConfig) -> None:
        super().__init__()
        self.cafu_item = Cafu(config.context, config.reduction, config.cafu_activation)
        has_own = config.personalised and not config.cafu_shared
        self.cafu_personal = Cafu(config.context, config.reduction, config.cafu_activation) if has_own else None
        self.fused = Mlp((config.d * (1 + config.personalised) + config.context, config.width))
        self.perspective = Perspective(config, config.width, config.mm_layers)
        self._personalised = config.personalised

    def forward(
        self, inputs: Inputs, items: list[tuple[Tensor, Tensor]], interests: list[tuple[Tensor, Tensor]], drop: Drop
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """Return H^mm, the fused vectors E and P, and the weights of the modalities by unit."""
        fused, weights = self._fuse(self.cafu_item, items, inputs)
        parts, aux = [fused], {"cafu_item": weights}
        if self._personalised:
            unit = self.cafu_item if self.cafu_personal is None else self.cafu_personal
            fused, aux["cafu_personal"] = self._fuse(unit, interests, inputs)
            parts.append(fused)
        context = inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)
        values = self.fused(torch.cat([*parts, context], dim=-1), drop)
        return self.perspective(values, inputs.mask, drop), parts, aux

    @staticmethod
    def _fuse(unit: Cafu, parts: list[tuple[Tensor, Tensor]], inputs: Inputs) -> tuple[Tensor, Tensor]:
        features = torch.stack([values for values, _ in parts], dim=2)
        present = torch.stack([mask for _, mask in parts], dim=2)
        fused, weights = unit(features, present, inputs.context)
        return fused, weights


class IdPerspective(nn.Module):
    """H^id; without CAFU it also reads what CAFU would have read, so that ablations have equal inputs."""

    def __init__(self, config: ArmmtConfig) -> None:
        super().__init__()
        self.attention = Interest(config, 3 * config.d) if config.personalised else None
        appended = () if config.cafu else config.modalities * (1 + config.personalised)
        features = base_width(config, interest=config.personalised, modalities=appended)
        width_in = features + (0 if config.cafu else config.context)
        self.perspective = Perspective(config, width_in, config.field_layers)
        self._cafu = config.cafu

    def forward(self, inputs: Inputs, vectors: list[Tensor], drop: Drop) -> Tensor:
        """Return H^id; `vectors` are those of the candidates, then the interests."""
        interest = None if self.attention is None else self.attention.of_ids(inputs)
        appended = []
        if not self._cafu:
            appended = [*vectors, inputs.context[:, None, :].expand(-1, inputs.mask.shape[1], -1)]
        features = base_features(inputs, interest, appended)
        return torch.as_tensor(self.perspective(features, inputs.mask, drop))


class Armmt(InputLayer):
    """ARMMT, equations 1 to 14."""

    def __init__(self, config: ArmmtConfig) -> None:
        super().__init__(config)
        # Both modalities always have weights, so that one may be left out of a run.
        modalities = MODALITIES if config.cafu else config.modalities
        self.modalities = nn.ModuleDict({modality: ModalityReader(config, modality) for modality in modalities})
        self.mm = Multimodal(config) if config.cafu else None
        fields = _FIELDS if config.perspectives else ()
        self.fields = nn.ModuleDict(
            {name: Perspective(config, len(_columns(config, name)), config.field_layers) for name in fields}
        )
        self.ids = IdPerspective(config) if config.id_perspective else None
        self.union = Perspective(config, len(_perspectives(config)) * config.width, config.global_layers)
        self.logit = nn.Linear(config.width, 1)
        self.click = nn.Linear(config.width, 1) if config.aux else None
        has_heads = config.aux and config.aux_heads == "mm_e_p"
        self.click_item = nn.Linear(config.d, 1) if has_heads else None
        self.click_personal = nn.Linear(config.d, 1) if has_heads and config.personalised else None
        self.pcvr = nn.Linear(config.width, 1) if config.pcvr else None
        self._config = config

    def forward(self, batch: TensorBatch, dropout: Dropout | None = None) -> Outputs:
        """Score a batch, with dropout if it is given.

        `aux` holds the weights of the modalities, `cafu_item` and `cafu_personal` [B,n,M], and further click logits.
        """
        config = self._config
        drop = dropper(dropout)
        inputs = self.read(batch)
        mask = inputs.mask
        vectors: dict[str, Vectors] = {name: self.modalities[name](batch) for name in config.modalities}
        if dropout is not None and dropout.rate > 0:
            vectors = {name: _drop_modality(found, dropout) for name, found in vectors.items()}
        interests = self._interests(inputs, vectors)
        parts: list[Tensor] = []
        for name, field in self.fields.items():
            parts.append(field(inputs.num[..., _columns(config, name)], mask, drop))
        click: Tensor | None = None
        aux: dict[str, Tensor] = {}
        if self.mm is not None:
            nothing = (inputs.category.new_zeros(*mask.shape, config.d), torch.zeros_like(mask))
            items = [(vectors[m].cand, vectors[m].cand_mask) if m in vectors else nothing for m in MODALITIES]
            personal = [interests.get(modality, nothing) for modality in MODALITIES]
            hidden_mm, fused, aux = self.mm(inputs, items, personal, drop)
            parts.append(hidden_mm)
            click = None if self.click is None else item_scores(self.click(hidden_mm), mask)
            heads = {"click_item": self.click_item, "click_personal": self.click_personal}
            for (name, head), part in zip(heads.items(), fused, strict=False):
                if head is not None:
                    aux[f"{name}_logit"] = item_scores(head(part), mask)
        if self.ids is not None:
            appended = [found.cand for found in vectors.values()] + [found for found, _ in interests.values()]
            parts.append(self.ids(inputs, appended, drop))
        hidden = self.union(torch.cat(parts, dim=-1), mask, drop)
        pcvr = None if self.pcvr is None else item_scores(self.pcvr(hidden), mask)
        return Outputs(item_scores(self.logit(hidden), mask), click, pcvr, aux)

    def _interests(self, inputs: Inputs, vectors: dict[str, Vectors]) -> dict[str, tuple[Tensor, Tensor]]:
        if not self._config.personalised:
            return {}
        readers = {name: self.modalities[name] for name in vectors}
        return {name: reader.interest(inputs, vectors[name]) for name, reader in readers.items()}  # type: ignore[operator] # a ModuleDict does not name the type of its values


def _drop_modality(vectors: Vectors, dropout: Dropout) -> Vectors:
    """Take a modality away from whole lists, as if all of its vectors were missing."""
    draws = torch.rand((vectors.cand_mask.shape[0], 1), generator=dropout.generator, device=vectors.cand.device)
    kept = draws >= dropout.rate
    cand_mask, hist_mask = vectors.cand_mask & kept, vectors.hist_mask & kept
    return Vectors(
        cand=zero_unless(cand_mask, vectors.cand),
        cand_mask=cand_mask,
        hist=zero_unless(hist_mask, vectors.hist),
        hist_mask=hist_mask,
    )
