"""The input layer that all models share: embeddings, numbers, context, vectors, each clean of what padding holds.

Source: MODELS.md 1, 2.1 and 2.6.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from trainer.features.schema import CLIENT_COLUMNS, HISTORY_NUM_COLUMNS, NUM_COLUMNS, QUERY_COLUMNS, RANK_COLUMNS
from trainer.models.batch import TensorBatch
from trainer.models.blocks import Initialiser, Params, init_attention, linear, target_attention, zero_unless
from trainer.models.config import Modality, ModelConfig

_TABLES = ("item", "shop", "brand", "category")
_ACTIONS = 5
_SIDE = _ACTIONS + len(HISTORY_NUM_COLUMNS)


class Inputs(NamedTuple):
    """What a list brings into a model, rows outside of masks 0.

    Attributes:
        entity: [B,n,3d] item, shop, brand of the candidates: the query of the attention.
        category: [B,n,d].
        num: [B,n,F] numbers, without those of rank where the model does not use it.
        rank: [B,n,d] embedding of `rank_in`, or None.
        behaviour: [B,L,3d] item, shop, brand of the behaviours: the keys.
        side: [B,L,s] type one-hot, log count, log age.
        client: [B,u].
        context: [B,c] C = ReLU(W_C [query; client]).
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


def num_width(config: ModelConfig) -> int:
    """Return F as the model sees it."""
    return len(NUM_COLUMNS) if config.uses_rank else len(NUM_COLUMNS) - len(RANK_COLUMNS)


def init_inputs(init: Initialiser, config: ModelConfig) -> None:
    """Add the tables under `rows.` and the weights of rank and context."""
    sizes = config.vocabulary
    for table, rows in zip(_TABLES, (sizes.item, sizes.shop, sizes.brand, sizes.category), strict=True):
        init.table(f"rows.{table}", rows, config.d)
    if config.uses_rank:
        init.table("rank.weight", config.max_rank + 1, config.d)
    init.linear("context", len(QUERY_COLUMNS) + config.d + len(CLIENT_COLUMNS), config.context)


def read_inputs(config: ModelConfig, params: Params, batch: TensorBatch) -> Inputs:
    """Return the inputs of a batch."""
    mask, hist_mask = batch.cand_mask, batch.hist_mask
    cand = [_rows(params, table, batch.cand_id[..., kind], mask) for kind, table in enumerate(_TABLES)]
    behaviour = [_rows(params, table, batch.hist_id[..., kind], hist_mask) for kind, table in enumerate(_TABLES[:3])]
    rank = None
    if config.uses_rank:
        ranks = torch.where(mask, batch.cand_rank.long(), 0).clamp(0, config.max_rank)
        rank = functional.embedding(ranks, params["rank.weight"], padding_idx=0)
    types = functional.one_hot(torch.where(hist_mask, batch.hist_type, 0).clamp(0, _ACTIONS - 1), _ACTIONS)
    query_category = functional.embedding(batch.query_category, params["rows.category"], padding_idx=0)
    context = linear(params, "context", torch.cat([batch.query, query_category, batch.client], dim=-1))
    empty = ~hist_mask.any(dim=1, keepdim=True)
    return Inputs(
        entity=torch.cat(cand[:3], dim=-1),
        category=cand[3],
        num=zero_unless(mask, batch.cand_num[..., : num_width(config)]),
        rank=rank,
        behaviour=torch.cat(behaviour, dim=-1),
        side=torch.cat([types.to(batch.hist_num.dtype), zero_unless(hist_mask, batch.hist_num)], dim=-1),
        client=batch.client,
        context=torch.relu(context),
        empty=empty[:, None, :].expand(-1, mask.shape[1], -1).to(batch.cand_num.dtype),
        mask=mask,
        hist_mask=hist_mask,
    )


def _rows(params: Params, table: str, slots: Tensor, mask: Tensor) -> Tensor:
    return functional.embedding(torch.where(mask, slots, 0), params[f"rows.{table}"], padding_idx=0)


def init_vectors(init: Initialiser, config: ModelConfig, modality: Modality) -> None:
    """Add the projection D -> d of a modality."""
    init.linear(f"vectors.{modality}", config.vector_width, config.d)


def read_vectors(params: Params, batch: TensorBatch, modality: Modality) -> Vectors:
    """Return the projected vectors of a modality; a missing vector is 0."""
    if modality == "image":
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
        cand=_project(params, modality, cand, cand_mask),
        cand_mask=cand_mask,
        hist=_project(params, modality, hist, hist_mask),
        hist_mask=hist_mask,
    )


def _project(params: Params, modality: Modality, vectors: Tensor, mask: Tensor) -> Tensor:
    dtype = params[f"vectors.{modality}.weight"].dtype
    return zero_unless(mask, linear(params, f"vectors.{modality}", zero_unless(mask, vectors.to(dtype))))


def init_interest(init: Initialiser, config: ModelConfig, name: str, width: int) -> None:
    """Add the weights of a target attention with queries and keys of `width`."""
    init_attention(init, name, width=width, side=_SIDE, client=len(CLIENT_COLUMNS), hidden=config.attention_hidden)


def id_interest(config: ModelConfig, params: Params, name: str, inputs: Inputs) -> Tensor:
    """Return p_i^id [B,n,3d]: the behaviours by ids, weighed for each candidate."""
    return target_attention(
        params,
        name,
        query=inputs.entity,
        key=inputs.behaviour,
        value=inputs.behaviour,
        side=inputs.side,
        client=inputs.client,
        mask=inputs.hist_mask,
        raw=config.attention == "raw",
    )


def vector_interest(config: ModelConfig, params: Params, name: str, inputs: Inputs, vectors: Vectors) -> Tensor:
    """Return p_i^m [B,n,d] of a modality: the behaviours that have a vector, weighed for each candidate."""
    return target_attention(
        params,
        name,
        query=vectors.cand,
        key=vectors.hist,
        value=vectors.hist,
        side=inputs.side,
        client=inputs.client,
        mask=vectors.hist_mask,
        raw=config.attention == "raw",
    )


def base_width(config: ModelConfig, *, interest: bool, modalities: tuple[Modality, ...]) -> int:
    """Return the width of `base_features`."""
    parts = 4 * config.d + num_width(config) + 1
    return parts + config.d * (3 * interest + config.uses_rank + len(modalities))


def base_features(inputs: Inputs, interest: Tensor | None, vectors: list[Tensor]) -> Tensor:
    """Return x_i of MODELS.md 2.1 before its linear map, with projected vectors appended.

    Shapes: interest (B, n, 3d), vectors (B, n, d) each; result (B, n, `base_width`).
    """
    parts = [inputs.entity, inputs.category, inputs.num, inputs.empty, *vectors]
    if interest is not None:
        parts.append(interest)
    if inputs.rank is not None:
        parts.append(inputs.rank)
    return torch.cat(parts, dim=-1)
