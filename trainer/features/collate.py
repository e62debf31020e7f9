"""The batch of padded arrays, the only input of every model.

Source: docs/training.md.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.schemas.events import MAX_PAGE_ITEMS, MAX_PAGES
from trainer.features.example import Examples
from trainer.features.hash_index import Hashes
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

    def lookup(self, ids: Hashes, /) -> NDArray[np.int64]:
        """Return the slot of each id: 0 for the empty string, 1 for an id that has none."""


class Lookups(Protocol):
    """The lookups of the four id tables; `trainer.features.id_maps.IdMaps` is one."""

    @property
    def category(self) -> Lookup:
        """Categories."""

    def slots(self, entity: NDArray[np.uint64], /) -> NDArray[np.int64]:
        """Return the slots of hashes of item, shop, brand and category: (k, 4, 2) to (k, 4)."""


class Batch(NamedTuple):
    """Padded arrays of B lists; masks are True for real rows. Legend: B lists, n candidates, L behaviours, D width,
    P pages of s items.

    `cand_id`, `hist_id` and `page_id` hold slots of item, shop, brand, category. `hist_type` is the action code + 1,
    0 = padding.
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
    page_id: NDArray[np.int64]  # [B,P,s,4] first items of the client's clicked pages, newest first, 0 = none
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


MODEL_INPUTS: Final = Batch._fields[: Batch._fields.index("click")]
"""The fields that forward passes read."""


def collate(
    examples: Examples,
    id_maps: Lookups,
    *,
    width: int,
    history: int = HISTORY_MAX,
    pages: int = MAX_PAGES,
    schema: int = NEWEST.number,
    fixed: bool = False,
) -> Batch:
    """Return the batch of the examples, padded to the longest list and history among them, or to the limits.

    Args:
        examples: At least one.
        id_maps: The slots of the ids.
        width: D, the width of the catalogue's vectors; a vector of another width counts as missing.
        history: Behaviours kept per list, the newest.
        pages: Clicked pages kept per list, the newest.
        schema: Number of the feature schema whose numbers `cand_num` holds.
        fixed: Pad to `N_MAX` and `history`, so that compiled models see one shape.

    Raises:
        ValueError: If there is no example.
    """
    if not len(examples):
        raise ValueError("collate: no example")
    newest = np.flatnonzero(examples.hist.place < history)
    hist = examples.hist.choose(newest)
    sizes, depths = np.diff(examples.cand.cuts), np.diff(hist.cuts)
    n = N_MAX if fixed else int(sizes.max())
    depth = history if fixed else max(int(depths.max()), 1)
    cand_mask, hist_mask = np.arange(n) < sizes[:, None], np.arange(depth) < depths[:, None]
    cand_places, hist_places = examples.cand.places(n), hist.places(depth)

    def of_cand(rows: NDArray[ScalarT]) -> NDArray[ScalarT]:
        return _spread(rows, cand_places, cand_mask)

    def of_hist(rows: NDArray[ScalarT]) -> NDArray[ScalarT]:
        return _spread(rows[newest], hist_places, hist_mask)

    page_entity = examples.page_entity[:, :pages]
    slots, hist_slots, page_slots, query_slots = _slots(examples, newest, page_entity, id_maps)
    img, img_mask = _of_width(examples.img, examples.img_mask, width)
    txt, txt_mask = _of_width(examples.txt, examples.txt_mask, width)
    hist_img, hist_img_mask = _of_width(examples.hist_img, examples.hist_img_mask, width)
    hist_txt, hist_txt_mask = _of_width(examples.hist_txt, examples.hist_txt_mask, width)
    query_vec, query_vec_mask = _query_vectors(examples, width)
    # No column is a view with gaps: a compiled graph is one of the strides, too.
    return Batch(
        cand_id=of_cand(slots),
        cand_num=of_cand(_numbers(examples.num, SCHEMAS[schema])),
        cand_rank=of_cand(examples.rank),
        cand_img=of_cand(img),
        cand_img_mask=of_cand(img_mask),
        cand_txt=of_cand(txt),
        cand_txt_mask=of_cand(txt_mask),
        cand_mask=cand_mask,
        hist_id=_spread(hist_slots, hist_places, hist_mask),
        hist_type=of_hist(examples.hist_type),
        hist_num=of_hist(examples.hist_num),
        hist_img=of_hist(hist_img),
        hist_img_mask=of_hist(hist_img_mask),
        hist_txt=of_hist(hist_txt),
        hist_txt_mask=of_hist(hist_txt_mask),
        hist_mask=hist_mask,
        page_id=page_slots,
        query=examples.query,
        query_category=query_slots[:, 0].copy(),
        client=examples.client,
        query_token=examples.token,
        query_path=query_slots[:, 1:].copy(),
        query_vec=query_vec,
        query_vec_mask=query_vec_mask,
        click=of_cand(examples.click),
        conv=of_cand(examples.conv),
        money=of_cand(examples.money),
        click_weight=np.array(examples.click_weight, dtype=np.float32),
        weight=np.array(examples.weight, dtype=np.float32),
        position=of_cand(examples.position),
        latency_ms=np.array(examples.latency_ms, dtype=np.float32),
    )


def padded(batch: Batch, *, history: int) -> Batch:
    """Return a batch with the shapes that `collate` gives with `fixed`, for lists and histories within the limits."""
    lengths = dict.fromkeys(("click", "conv", "money", "position"), N_MAX)
    lengths |= {name: N_MAX for name in Batch._fields if name.startswith("cand_")}
    lengths |= {name: history for name in Batch._fields if name.startswith("hist_")}
    columns: dict[str, NDArray[np.generic]] = batch._asdict()
    for name, length in lengths.items():
        column = columns[name]
        wider = np.zeros((len(column), length, *column.shape[2:]), column.dtype)
        wider[:, : column.shape[1]] = column
        columns[name] = wider
    return Batch(**columns)  # type: ignore[arg-type] # each field keeps its type


def batch_from_columns(columns: Mapping[str, NDArray[np.generic]]) -> Batch:
    """Return a batch that was stored by field; fields that were unknown when it was stored are 0.

    Raises:
        KeyError: If another field is missing.
    """
    shape = columns["cand_mask"].shape
    unknown = {
        "page_id": np.zeros((shape[0], 0, MAX_PAGE_ITEMS, len(TABLES)), np.int64),
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


def _query_vectors(examples: Examples, width: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    mask = np.array([vector.size == width for vector in examples.query_vector])
    vectors = np.zeros((len(mask), width), dtype=np.float16)
    if mask.any():
        vectors[mask] = [vector for vector in examples.query_vector if vector.size == width]
    return vectors, mask


def _spread(rows: NDArray[ScalarT], places: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[ScalarT]:
    padded = np.zeros((mask.size, *rows.shape[1:]), dtype=rows.dtype)
    padded[places] = rows
    return padded.reshape(*mask.shape, *rows.shape[1:])


def _of_width(
    vectors: NDArray[np.float16], mask: NDArray[np.bool_], width: int
) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    if vectors.shape[1] == width:
        return vectors, mask
    return np.zeros((len(vectors), width), np.float16), np.zeros_like(mask)


def _slots(
    examples: Examples, newest: NDArray[np.int64], page_entity: NDArray[np.uint64], id_maps: Lookups
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return slots of candidates, newest behaviours, items of pages, and queries: category, then nodes of the path.

    An empty id has slot 0.
    """
    is_item = page_entity[..., 0, :].any(axis=-1)
    entity = np.concatenate([examples.entity, examples.hist_entity[newest], page_entity[is_item]])
    queries = examples.query_entity()
    slots, hist_slots, of_items = np.split(id_maps.slots(entity), np.cumsum([len(examples.entity), len(newest)]))
    page_slots = np.zeros(page_entity.shape[:-1], np.int64)
    page_slots[is_item] = of_items
    query_slots = id_maps.category.lookup(Hashes.of(queries.reshape(-1, 2)))
    return slots, hist_slots, page_slots, query_slots.reshape(queries.shape[:2])
