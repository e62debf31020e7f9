"""The input layer of all models: embeddings, numbers, context and vectors, each clean of what padding holds.

Source: docs/training.md; ARMMT (arXiv 2408.05751), sections 3.2 and 4.1.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.configs.base import Modality, ModelConfig
from trainer.features.collate import TABLES
from trainer.features.schema import (
    CLIENT_COLUMNS,
    HISTORY_NUM_COLUMNS,
    QUERY_COLUMNS,
    RANK_COLUMNS,
    SCHEMAS,
    TOKEN_BUCKETS,
)
from trainer.models.batch import TensorBatch
from trainer.models.blocks import Embedding, TargetAttention, zero_unless
from trainer.models.touches import TouchColumns

_ACTIONS = 5
_SIDE = _ACTIONS + len(HISTORY_NUM_COLUMNS)


class Inputs(NamedTuple):
    """Inputs of a model from one batch, rows outside of masks 0.

    Attributes:
        entity: [B,n,3d] item, shop, brand of the candidates: the query of the attention.
        category: [B,n,d].
        num: [B,n,F] numbers, without those of rank where the model does not use it, then those by touches.
        rank: [B,n,d] embedding of `rank_in`, or None.
        behaviour: [B,L,3d] item, shop, brand of the behaviours: the keys.
        side: [B,L,s] type one-hot, log count, log age.
        client: [B,u].
        context: [B,c] C = ReLU(W_C [query; category; client]), from schema 2 on [query; category; client; words].
        empty: [B,n,1] flag of an empty history.
        mask, hist_mask: [B,n], [B,L].
    """

    entity: Tensor
    category: Tensor
    num: Tensor
    rank: Tensor | None
    behaviour: Tensor
    side: Tensor
    client: Tensor
    context: Tensor
    empty: Tensor
    mask: Tensor
    hist_mask: Tensor


class Vectors(NamedTuple):
    """One modality projected to d: candidates [B,n,d], behaviours [B,L,d], and their masks."""

    cand: Tensor
    cand_mask: Tensor
    hist: Tensor
    hist_mask: Tensor


def num_columns(config: ModelConfig) -> tuple[str, ...]:
    """Return the columns of the feature schema as the model sees them."""
    columns = SCHEMAS[config.feature_schema].numbers
    return columns if config.uses_rank else columns[: -len(RANK_COLUMNS)]


def schema_width(config: ModelConfig) -> int:
    """Return the number of columns that the model reads of the batch's numbers."""
    return config.num_columns or len(num_columns(config))


def has_touches(config: ModelConfig) -> bool:
    """Return whether the touched items of a list are inputs: data of another form name none."""
    return config.touch_columns and not config.num_columns


def num_width(config: ModelConfig) -> int:
    """Return F as the model sees it."""
    return schema_width(config) + (TouchColumns.width(config) if has_touches(config) else 0)


class IdTables(nn.Module):
    """Embedding tables of ids.

    They are plain weights instead of `nn.Embedding`: a forward pass gets gathered rows in their place.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.vocabulary
        self.item = nn.Parameter(torch.empty(sizes.item, config.d))
        self.shop = nn.Parameter(torch.empty(sizes.shop, config.d))
        self.brand = nn.Parameter(torch.empty(sizes.brand, config.d))
        self.category = nn.Parameter(torch.empty(sizes.category, config.d))

    def forward(self, table: str, slots: Tensor) -> Tensor:
        """Return the rows of the slots; slot 0 is padding."""
        return functional.embedding(slots, getattr(self, table), padding_idx=0)


class QueryWords(nn.Module):
    """Content of the query: mean embedding of its tokens, of the nodes of its category, and its projected vector.

    Shapes: result (B, 3d); a part that the query lacks is 0.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token = Embedding(TOKEN_BUCKETS, config.d, padding_idx=0)
        self.project = nn.Linear(config.vector_width, config.d)

    def forward(self, batch: TensorBatch, rows: IdTables) -> Tensor:
        """Return the parts side by side."""
        present = batch.query_vec_mask[:, None]
        vector = self.project(zero_unless(batch.query_vec_mask, batch.query_vec.to(self.project.weight.dtype)))
        return torch.cat(
            [
                _mean(self.token(batch.query_token), batch.query_token),
                _mean(rows("category", batch.query_path), batch.query_path),
                torch.where(present, vector, 0.0),
            ],
            dim=-1,
        )


def _mean(embedded: Tensor, numbers: Tensor) -> Tensor:
    """Return the mean over the numbers that are not 0."""
    real = numbers > 0
    return zero_unless(real, embedded).sum(dim=-2) / real.sum(dim=-1, keepdim=True).clamp(min=1)


class InputLayer(nn.Module):
    """Base of all models: id tables `rows`, the embedding of `rank_in`, and the context."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rows = IdTables(config)
        self.rank = Embedding(config.max_rank + 1, config.d, padding_idx=0) if config.uses_rank else None
        self.words = QueryWords(config) if SCHEMAS[config.feature_schema].reads_query else None
        width = len(QUERY_COLUMNS) + config.d + len(CLIENT_COLUMNS) + (0 if self.words is None else 3 * config.d)
        self.context = nn.Linear(width, config.context)
        self.touches = TouchColumns(config) if has_touches(config) else None
        self._schema_width = schema_width(config)
        self._max_rank = config.max_rank

    def read(self, batch: TensorBatch) -> Inputs:
        """Return the inputs of a batch."""
        mask, hist_mask = batch.cand_mask, batch.hist_mask
        cand = [self.rows(table, torch.where(mask, batch.cand_id[..., kind], 0)) for kind, table in enumerate(TABLES)]
        behaviour = [
            self.rows(table, torch.where(hist_mask, batch.hist_id[..., kind], 0))
            for kind, table in enumerate(TABLES[:3])
        ]
        rank = None
        if self.rank is not None:
            rank = self.rank(torch.where(mask, batch.cand_rank.long(), 0).clamp(0, self._max_rank))
        types = functional.one_hot(torch.where(hist_mask, batch.hist_type, 0).clamp(0, _ACTIONS - 1), _ACTIONS)
        query_category = self.rows("category", batch.query_category)
        about = [batch.query, query_category, batch.client]
        if self.words is not None:
            about.append(self.words(batch, self.rows))
        context = self.context(torch.cat(about, dim=-1))
        empty = ~hist_mask.any(dim=1, keepdim=True)
        num = zero_unless(mask, batch.cand_num[..., : self._schema_width])
        return Inputs(
            entity=torch.cat(cand[:3], dim=-1),
            category=cand[3],
            num=num if self.touches is None else torch.cat([num, self.touches(batch)], dim=-1),
            rank=rank,
            behaviour=torch.cat(behaviour, dim=-1),
            side=torch.cat([types.to(batch.hist_num.dtype), zero_unless(hist_mask, batch.hist_num)], dim=-1),
            client=batch.client,
            context=torch.relu(context),
            empty=empty[:, None, :].expand(-1, mask.shape[1], -1).to(batch.cand_num.dtype),
            mask=mask,
            hist_mask=hist_mask,
        )


class VectorReader(nn.Module):
    """Projection D -> d of one modality's vectors; a missing vector is 0."""

    def __init__(self, config: ModelConfig, modality: Modality) -> None:
        super().__init__()
        self.project = nn.Linear(config.vector_width, config.d)
        self._modality = modality

    def forward(self, batch: TensorBatch) -> Vectors:
        """Return the projected vectors of a batch."""
        if self._modality == "image":
            cand, cand_present, hist, hist_present = (
                batch.cand_img,
                batch.cand_img_mask,
                batch.hist_img,
                batch.hist_img_mask,
            )
        else:
            cand, cand_present, hist, hist_present = (
                batch.cand_txt,
                batch.cand_txt_mask,
                batch.hist_txt,
                batch.hist_txt_mask,
            )
        cand_mask = cand_present & batch.cand_mask
        hist_mask = hist_present & batch.hist_mask
        return Vectors(
            cand=self._project(cand, cand_mask),
            cand_mask=cand_mask,
            hist=self._project(hist, hist_mask),
            hist_mask=hist_mask,
        )

    def _project(self, vectors: Tensor, mask: Tensor) -> Tensor:
        return zero_unless(mask, self.project(zero_unless(mask, vectors.to(self.project.weight.dtype))))


class Interest(TargetAttention):
    """Target attention over the history, with queries and keys of one width."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__(
            width=width,
            side=_SIDE,
            client=len(CLIENT_COLUMNS),
            hidden=config.attention_hidden,
            raw=config.attention == "raw",
        )

    def of_ids(self, inputs: Inputs) -> Tensor:
        """Return p_i^id [B,n,3d]: the behaviours by ids, weighed for each candidate."""
        return self.forward(
            query=inputs.entity,
            key=inputs.behaviour,
            value=inputs.behaviour,
            side=inputs.side,
            client=inputs.client,
            mask=inputs.hist_mask,
        )

    def of_vectors(self, inputs: Inputs, vectors: Vectors) -> Tensor:
        """Return p_i^m [B,n,d] of a modality: the behaviours that have a vector, weighed for each candidate."""
        return self.forward(
            query=vectors.cand,
            key=vectors.hist,
            value=vectors.hist,
            side=inputs.side,
            client=inputs.client,
            mask=vectors.hist_mask,
        )


def base_width(config: ModelConfig, *, interest: bool, modalities: tuple[Modality, ...]) -> int:
    """Return the width of `base_features`."""
    parts = 4 * config.d + num_width(config) + 1
    return parts + config.d * (3 * interest + config.uses_rank + len(modalities))


def base_features(inputs: Inputs, interest: Tensor | None, vectors: list[Tensor]) -> Tensor:
    """Return the features x_i of each candidate before its linear map, with projected vectors appended.

    Shapes: interest (B, n, 3d), vectors (B, n, d) each; result (B, n, `base_width`).
    """
    parts = [inputs.entity, inputs.category, inputs.num, inputs.empty, *vectors]
    if interest is not None:
        parts.append(interest)
    if inputs.rank is not None:
        parts.append(inputs.rank)
    return torch.cat(parts, dim=-1)
