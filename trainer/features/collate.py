"""The batch of padded arrays, the only input of every model.

Source: docs/training.md.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.features.example import SessionExample
from trainer.features.schema import (
    HISTORY_MAX,
    MAX_TOKENS,
    N_MAX,
    NEWEST,
    NUM_COLUMNS,
    PATH_MAX,
    SCHEMAS,
    FeatureSchema,
)

ScalarT = TypeVar("ScalarT", bound=np.generic)

TABLES: Final = ("item", "shop", "brand", "category")
"""The id tables, in the order of the last axis of `cand_id` and `hist_id`."""


class Lookup(Protocol):
    """A table of ids: slot 0 is padding, slot 1 the cold row."""

    def lookup(self, keys: Sequence[str], /) -> NDArray[np.int64]:
        """Return the slot of each key: 0 for the empty string, 1 for a key that has none."""


class Lookups(Protocol):
    """The lookups of the four id tables; `trainer.features.id_maps.IdMaps` is one."""

    @property
    def item(self) -> Lookup:
        """Items."""

    @property
    def shop(self) -> Lookup:
        """Shops."""

    @property
    def brand(self) -> Lookup:
        """Brands."""

    @property
    def category(self) -> Lookup:
        """Categories."""


class Batch(NamedTuple):
    """Padded arrays of B lists; masks are True for real rows. Legend: B lists, n candidates, L behaviours, D width.

    `cand_id` and `hist_id` hold slots of item, shop, brand, category. `hist_type` is the action code + 1, 0 = padding.
    The fields from `click` on are unknown when a list is scored: losses and evaluation read them, forward passes never.
    """

    cand_id: NDArray[np.int64]  # [B,n,4]
    cand_num: NDArray[np.float32]  # [B,n,F]
    cand_rank: NDArray[np.int16]  # [B,n]
    cand_img: NDArray[np.float16]  # [B,n,D]
    cand_img_mask: NDArray[np.bool_]  # [B,n]
    cand_txt: NDArray[np.float16]  # [B,n,D]
    cand_txt_mask: NDArray[np.bool_]  # [B,n]
    cand_mask: NDArray[np.bool_]  # [B,n]
    hist_id: NDArray[np.int64]  # [B,L,4]
    hist_type: NDArray[np.int64]  # [B,L]
    hist_num: NDArray[np.float32]  # [B,L,2]
    hist_img: NDArray[np.float16]  # [B,L,D]
    hist_img_mask: NDArray[np.bool_]  # [B,L]
    hist_txt: NDArray[np.float16]  # [B,L,D]
    hist_txt_mask: NDArray[np.bool_]  # [B,L]
    hist_mask: NDArray[np.bool_]  # [B,L]
    query: NDArray[np.float32]  # [B,q]
    query_category: NDArray[np.int64]  # [B] slot
    client: NDArray[np.float32]  # [B,u]
    query_token: NDArray[np.int64]  # [B,t] 0 = none
    query_path: NDArray[np.int64]  # [B,p] slots of the nodes of the query's category, 0 = none
    query_vec: NDArray[np.float16]  # [B,D]
    query_vec_mask: NDArray[np.bool_]  # [B]
    click: NDArray[np.float32]  # [B,n]
    conv: NDArray[np.float32]  # [B,n]
    money: NDArray[np.float64]  # [B,n] minor units
    click_weight: NDArray[np.float32]  # [B]
    weight: NDArray[np.float32]  # [B]
    position: NDArray[np.int32]  # [B,n] displayed, from 1; 0 = unknown
    latency_ms: NDArray[np.float32]  # [B] 0 = unknown


def collate(
    examples: Sequence[SessionExample],
    id_maps: Lookups,
    *,
    width: int,
    history: int = HISTORY_MAX,
    schema: int = NEWEST.number,
    fixed: bool = False,
) -> Batch:
    """Return the batch of the examples, padded to the longest list and history among them, or to the limits.

    Args:
        examples: At least one.
        id_maps: The slots of the keys.
        width: D, the width of the catalogue's vectors; a vector of another width counts as missing.
        history: Behaviours kept per list, the newest.
        schema: Number of the feature schema whose numbers `cand_num` holds.
        fixed: Pad to `N_MAX` and `history`, so that compiled models see one shape.

    Raises:
        ValueError: If there is no example.
    """
    if not examples:
        raise ValueError("collate: no example")
    sizes = np.array([len(example.item_ids) for example in examples])
    depths = np.array([min(len(example.hist_type), history) for example in examples])
    n = N_MAX if fixed else int(sizes.max())
    depth = history if fixed else max(int(depths.max()), 1)
    cand = np.arange(n) < sizes[:, None]
    hist = np.arange(depth) < depths[:, None]
    slots, category, path = _slots(examples, id_maps, depths)
    query_vec, query_vec_mask = _query_vectors(examples, width)
    real = int(sizes.sum())
    img, img_mask = _vectors([(e.img, e.img_mask) for e in examples], cand, width)
    txt, txt_mask = _vectors([(e.txt, e.txt_mask) for e in examples], cand, width)
    pairs = list(zip(examples, depths.tolist(), strict=True))
    hist_img, hist_img_mask = _vectors([(e.hist_img[:k], e.hist_img_mask[:k]) for e, k in pairs], hist, width)
    hist_txt, hist_txt_mask = _vectors([(e.hist_txt[:k], e.hist_txt_mask[:k]) for e, k in pairs], hist, width)
    return Batch(
        cand_id=_spread(slots[:real], cand),
        cand_num=_spread(_numbers(np.concatenate([e.num for e in examples]), SCHEMAS[schema]), cand),
        cand_rank=_spread(np.concatenate([e.rank for e in examples]), cand),
        cand_img=img,
        cand_img_mask=img_mask,
        cand_txt=txt,
        cand_txt_mask=txt_mask,
        cand_mask=cand,
        hist_id=_spread(slots[real:], hist),
        hist_type=_spread(np.concatenate([e.hist_type[:k] for e, k in pairs]), hist),
        hist_num=_spread(np.concatenate([e.hist_num[:k] for e, k in pairs]), hist),
        hist_img=hist_img,
        hist_img_mask=hist_img_mask,
        hist_txt=hist_txt,
        hist_txt_mask=hist_txt_mask,
        hist_mask=hist,
        query=np.stack([e.query for e in examples]),
        query_category=category,
        client=np.stack([e.client for e in examples]),
        query_token=np.stack([e.token for e in examples]),
        query_path=path,
        query_vec=query_vec,
        query_vec_mask=query_vec_mask,
        click=_spread(np.concatenate([e.click for e in examples]), cand),
        conv=_spread(np.concatenate([e.conv for e in examples]), cand),
        money=_spread(np.concatenate([e.money for e in examples]), cand),
        click_weight=np.array([e.click_weight for e in examples], dtype=np.float32),
        weight=np.array([e.weight for e in examples], dtype=np.float32),
        position=_spread(np.concatenate([e.position for e in examples]), cand),
        latency_ms=np.array([e.latency_ms for e in examples], dtype=np.float32),
    )


def batch_from_columns(columns: Mapping[str, NDArray[np.generic]]) -> Batch:
    """Return a batch that was stored by field; fields that were unknown when it was stored are 0.

    Raises:
        KeyError: If another field is missing.
    """
    shape = columns["cand_mask"].shape
    unknown = {
        "query_token": np.zeros((shape[0], MAX_TOKENS), np.int64),
        "query_path": np.zeros((shape[0], PATH_MAX), np.int64),
        "query_vec": np.zeros((shape[0], columns["cand_txt"].shape[2]), np.float16),
        "query_vec_mask": np.zeros(shape[0], np.bool_),
        "position": np.zeros(shape, np.int32),
        "latency_ms": np.zeros(shape[0], np.float32),
    }
    stored = {**unknown, **columns}
    return Batch(**{name: stored[name] for name in Batch._fields})  # type: ignore[arg-type]


def _numbers(num: NDArray[np.float32], schema: FeatureSchema) -> NDArray[np.float32]:
    """Return the numbers that models of a schema read; data of another form stay as they are."""
    if schema.numbers == NUM_COLUMNS or num.shape[1] != len(NUM_COLUMNS):
        return num
    return num[:, [NUM_COLUMNS.index(name) for name in schema.numbers]]


def _query_vectors(examples: Sequence[SessionExample], width: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    mask = np.array([e.query_vector.size == width for e in examples])
    vectors = np.zeros((len(examples), width), dtype=np.float16)
    for row in np.flatnonzero(mask).tolist():
        vectors[row] = examples[row].query_vector
    return vectors, mask


def _spread(rows: NDArray[ScalarT], mask: NDArray[np.bool_]) -> NDArray[ScalarT]:
    padded = np.zeros((*mask.shape, *rows.shape[1:]), dtype=rows.dtype)
    padded[mask] = rows
    return padded


def _vectors(
    parts: list[tuple[NDArray[np.float16], NDArray[np.bool_]]], mask: NDArray[np.bool_], width: int
) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    if all(part.shape[1] == width for part, _ in parts):
        vectors, present = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    else:
        vectors = np.zeros((int(mask.sum()), width), dtype=np.float16)
        present = np.zeros(len(vectors), dtype=np.bool_)
        start = 0
        for part, part_mask in parts:
            if part.shape[1] == width:
                vectors[start : start + len(part)], present[start : start + len(part)] = part, part_mask
            start += len(part)
    return _spread(vectors, mask), _spread(present, mask)


def _slots(
    examples: Sequence[SessionExample], id_maps: Lookups, depths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return slots of all candidates, then of all behaviours, of the query categories, and of the nodes of their paths.

    An empty key has slot 0.
    """
    columns = []
    queries = np.zeros((len(examples), 1 + PATH_MAX), dtype=np.int64)
    lookups = (id_maps.item, id_maps.shop, id_maps.brand, id_maps.category)
    for kind, (name, table) in enumerate(zip(TABLES, lookups, strict=True)):
        keys = list(chain.from_iterable(e.entity[kind] for e in examples))
        for example, depth in zip(examples, depths.tolist(), strict=True):
            keys.extend(example.hist_entity[kind][:depth])
        if name == "category":
            for example in examples:
                keys += [example.category, *example.path, *[""] * (PATH_MAX - len(example.path))]
        slots = table.lookup(keys).astype(np.int64)
        if name == "category":
            slots, of_queries = slots[: -queries.size], slots[-queries.size :]
            queries = of_queries.reshape(queries.shape)
        columns.append(slots)
    return np.stack(columns, axis=1), queries[:, 0], queries[:, 1:]
