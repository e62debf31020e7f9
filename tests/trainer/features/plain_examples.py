"""Examples built list by list in plain Python, as an oracle for the builder of whole batches."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.schemas.events import PRODUCT, Item
from stream.schemas.session import ACTION_CODES, Session
from trainer.features import CatalogueLike, SessionExample
from trainer.features.categories import Path, covers, nodes
from trainer.features.hash_index import hash_pairs
from trainer.features.schema import (
    CLIENT_COLUMNS,
    CONTEXT_COLUMNS,
    HISTORY_MAX,
    ITEM_COLUMNS,
    N_MAX,
    NUMERIC_COLUMNS,
    PATH_MAX,
    QUERY_COLUMNS,
    TYPE_COLUMNS,
    newest_columns,
    schema_of,
)

Array = NDArray[np.float32]

_NUMERIC = [ITEM_COLUMNS.index(name) for name in NUMERIC_COLUMNS]
_PRICE = ITEM_COLUMNS.index("price")
_SCALE = np.array([0.2, 0.2, 0.2, 1, 1, 1, 1, 1], dtype=np.float32)
_HAS_IMAGE = ITEM_COLUMNS.index("has_image")
_HAS_TEXT = ITEM_COLUMNS.index("has_text")
_TYPES = {name.removeprefix("type_"): column for column, name in enumerate(TYPE_COLUMNS)}
_CLIENT = len(QUERY_COLUMNS)
_TOKENS = _CLIENT + len(CLIENT_COLUMNS)


@dataclass(frozen=True)
class _Behaviours:
    item: Sequence[str]
    category: Sequence[str]
    action: NDArray[np.int64]
    age_s: NDArray[np.float64]


def plain_example(session: Session, catalogue: CatalogueLike) -> SessionExample:
    schema = schema_of(session.feature_schema.hex())
    context = session.column("context_f16")
    head = newest_columns(context[None, : len(schema.context)], schema.context, CONTEXT_COLUMNS)[0]
    items = newest_columns(session.column("item_f16").reshape(session.n, -1), schema.item, ITEM_COLUMNS)
    behaviours = _Behaviours(
        item=session.hist_item,
        category=session.hist_category,
        action=session.column("hist_action").astype(np.int64),
        age_s=session.column("hist_age_s").astype(np.float64),
    )
    return _build(
        session,
        items.astype(np.float32),
        np.concatenate([head, context[len(schema.context) :]]),
        behaviours,
        catalogue,
    )


def _build(
    session: Session,
    items: NDArray[np.float32],
    context: NDArray[np.float16],
    behaviours: _Behaviours,
    catalogue: CatalogueLike,
) -> SessionExample:
    item_ids, rank_in, category = session.item_id, session.column("rank_in").astype(np.int64), session.query_category
    clicks, carts, orders = (session.column(name) for name in ("clicks", "carts", "orders"))
    new = np.full(session.n, session.revision == 0)
    if session.reason == "conversion":
        new[session.column("changed")] = True
    conv = (orders > 0) & new
    logged = session.column("position").astype(np.int32)
    position = logged + np.int32(logged.min() == 0) if logged.size else np.arange(1, session.n + 1, dtype=np.int32)
    score = session.column("score")
    has_score = session.version is not None and score.size == session.n
    index = np.array(sorted(range(len(item_ids)), key=lambda row: (rank_in[row], item_ids[row])), dtype=np.int64)
    index = index[:N_MAX]
    ids = [item_ids[row] for row in index]
    entity, leaves = _entities(ids, catalogue)
    query_category = category or _commonest(leaves[:10])
    paths = [_path(catalogue.get(item_id)) for item_id in ids]
    query = nodes([query_category])
    matches = [covers(query, path) for path in paths]
    items = items[index]
    matching = _matching(behaviours, query, paths, catalogue)
    # A category that no candidate and no behaviour has is unknown, and says nothing about the history.
    is_unknown = not any(matches) and not matching.size
    kept = (np.arange(len(behaviours.item)) if is_unknown else matching)[:HISTORY_MAX]
    hist_ids = [behaviours.item[row] for row in kept]
    counts = Counter(behaviours.item)
    img, img_mask = _vectors(ids, catalogue.image)
    txt, txt_mask = _vectors(ids, catalogue.text)
    hist_img, hist_img_mask = _vectors(hist_ids, catalogue.image)
    hist_txt, hist_txt_mask = _vectors(hist_ids, catalogue.text)
    hist_num = np.empty((len(kept), 2), dtype=np.float32)
    hist_num[:, 0] = np.log1p([counts[item_id] for item_id in hist_ids])
    hist_num[:, 1] = np.log1p(behaviours.age_s[kept] / 3600)
    numbers = [
        items * _SCALE,
        relative(items),
        _touches(ids, behaviours, counts, matches),
        _types(session.item_type, index),
        neighbour_prices(items),
    ]
    return SessionExample(
        query_id=session.query_id,
        session_id=session.session_id,
        item_ids=ids,
        index=index,
        entity=entity,
        num=np.concatenate(numbers, axis=1),
        rank=np.minimum(rank_in[index], 32_767).astype(np.int16),
        img=img,
        img_mask=img_mask & (items[:, _HAS_IMAGE] > 0),
        txt=txt,
        txt_mask=txt_mask & (items[:, _HAS_TEXT] > 0),
        hist_entity=_entities(hist_ids, catalogue)[0],
        hist_type=behaviours.action[kept] + 1,
        hist_num=hist_num,
        hist_img=hist_img,
        hist_img_mask=hist_img_mask,
        hist_txt=hist_txt,
        hist_txt_mask=hist_txt_mask,
        query=context[:_CLIENT].astype(np.float32),
        client=context[_CLIENT:_TOKENS].astype(np.float32),
        token=context[_TOKENS : len(CONTEXT_COLUMNS)].astype(np.int64),
        page_entity=_page_entities(session.hist_pages, catalogue),
        query_vector=context[len(CONTEXT_COLUMNS) :],
        category=query_category,
        path=_query_path(query, query_category, paths, leaves, is_given=bool(category))[-PATH_MAX:],
        num_behaviours=len(behaviours.item),
        num_matching=len(behaviours.item) if is_unknown else len(matching),
        click=((clicks > 0) | (carts > 0) | (orders > 0)).astype(np.float32)[index],
        conv=conv.astype(np.float32)[index],
        money=(conv * session.column("gross_minor")).astype(np.float64)[index],
        click_weight=1.0 if session.revision == 0 else 0.0,
        position=position[index],
        latency_ms=session.latency_us / 1_000,
        served_by=session.lineage if has_score else None,
        served_score=score[index] if has_score else None,
    )


def _entities(ids: Sequence[str], catalogue: CatalogueLike) -> tuple[NDArray[np.uint64], list[str]]:
    """Return hashes of item, shop, brand and category of each id, and its category."""
    keys, leaves = [], []
    for item_id in ids:
        record = catalogue.get(item_id)
        leaves.append(record.category_ids[-1] if record is not None and record.category_ids else "")
        shop, brand = ("", "") if record is None else (record.shop_id or "", record.brand_id or "")
        keys += [item_id, shop, brand, leaves[-1]]
    return hash_pairs(keys).reshape(len(ids), 4, 2), leaves


def _page_entities(pages: Sequence[Sequence[str]], catalogue: CatalogueLike) -> NDArray[np.uint64]:
    found = np.zeros((5, 6, 4, 2), np.uint64)
    for number, page in enumerate(pages):
        for place, item_id in enumerate(page):
            found[number, place] = _entities([item_id], catalogue)[0][0]
    return found


def _types(item_types: Sequence[str], index: NDArray[np.int64]) -> NDArray[np.float32]:
    columns = np.zeros((len(index), len(TYPE_COLUMNS)), dtype=np.float32)
    if item_types:
        for row, source in enumerate(index):
            if item_types[source] != PRODUCT:
                columns[row, _TYPES.get(item_types[source], _TYPES["other"])] = 1
    return columns


def _commonest(categories: Sequence[str]) -> str:
    known = [category for category in categories if category]
    return Counter(known).most_common(1)[0][0] if known else ""


def _query_path(query: Path, leaf: str, paths: Sequence[Path], leaves: Sequence[str], *, is_given: bool) -> Path:
    """Return the path of the query's category; one that was taken from the candidates has the path of theirs."""
    if is_given or not leaf:
        return query
    return next((path for path, own in zip(paths, leaves, strict=True) if own == leaf), query)


def _path(item: Item | None) -> Path:
    return nodes(item.category_ids) if item is not None and item.category_ids else ()


def _matching(
    behaviours: _Behaviours, query: Path, candidates: Sequence[Path], catalogue: CatalogueLike
) -> NDArray[np.int64]:
    """Return the behaviours of the query's category and of those below it, newest first."""
    # A logged category is a leaf: the path above it is that of the item, or of a candidate with the same leaf.
    by_leaf = {path[-1:]: path for path in reversed(candidates) if path}
    kept: list[int] = []
    for row, logged in enumerate(behaviours.category):
        leaf, own = nodes([logged]), _path(catalogue.get(behaviours.item[row]))
        path = own if not leaf or own[-len(leaf) :] == leaf else by_leaf.get(leaf[-1:], leaf)
        if covers(query, path) or covers(query, leaf):
            kept.append(row)
    return np.array(kept, dtype=np.int64)


def _vectors(
    ids: Sequence[str], lookup: Callable[[str], NDArray[np.floating] | None]
) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    found = [lookup(item_id) for item_id in ids]
    width = next((vector.size for vector in found if vector is not None), 0)
    rows = np.zeros((len(ids), width), dtype=np.float16)
    mask = np.zeros(len(ids), dtype=np.bool_)
    for row, vector in enumerate(found):
        if vector is not None and vector.size == width:
            rows[row] = vector
            mask[row] = True
    return rows, mask


def _touches(
    ids: Sequence[str], behaviours: _Behaviours, counts: Counter[str], matches: Sequence[bool]
) -> NDArray[np.float32]:
    columns = np.zeros((len(ids), 5), dtype=np.float32)
    columns[:, 4] = matches
    rows = {item_id: row for row, item_id in enumerate(ids)}
    newest_row = -1
    # Oldest first, so that the newest touch of an item is the one that stays.
    for behaviour in range(len(behaviours.item) - 1, -1, -1):
        row = rows.get(behaviours.item[behaviour], -1)
        if row >= 0:
            columns[row, 0] = np.log1p(counts[ids[row]])
            columns[row, 1] = 1 / (1 + behaviours.age_s[behaviour] / 3600)
            columns[row, 3] = max(columns[row, 3], float(behaviours.action[behaviour] == ACTION_CODES["purchase"]))
            newest_row = row
    if newest_row >= 0:
        columns[newest_row, 2] = 1
    return columns


def average_ranks(values: Array) -> Array:
    """Return the average rank of each row in its column, smallest = 1.

    Ties share the mean of their ranks, so that they carry nothing of the order of the rows.

    Shapes: (n, f) to (n, f).

    >>> average_ranks(np.array([[3.0], [1.0], [3.0]], dtype=np.float32)).tolist()
    [[2.5], [1.0], [2.5]]
    """
    row, other = values[:, None, :], values[None, :, :]
    smaller = np.count_nonzero(other < row, axis=1)
    equal = np.count_nonzero(other == row, axis=1)
    return np.asarray(smaller + (equal + 1) / 2, dtype=np.float32)


def relative(items: Array) -> Array:
    """Return min-max position, average rank / n and difference to the mean of each numeric column.

    Shapes: (n, len(ITEM_COLUMNS)) to (n, 3 x len(NUMERIC_COLUMNS)), three columns per number.
    Guarantees: a flat column gives min-max 0; the order of rows plays no part.
    """
    values = items[:, _NUMERIC]
    low = values.min(axis=0)
    spread = values.max(axis=0) - low
    minmax = (values - low) / np.where(spread > 0, spread, 1)
    # The sum is taken over sorted values: float addition depends on the order, and the order of rows must not matter.
    centred = values - np.sort(values, axis=0).mean(axis=0)
    stacked = np.stack([minmax, average_ranks(values) / len(values), centred], axis=2)
    return stacked.reshape(len(values), -1).astype(np.float32)


def neighbour_prices(items: Array) -> Array:
    """Return the price minus the one before and the one after, rows in order of `rank_in`; 0 at the ends.

    Shapes: (n, len(ITEM_COLUMNS)) to (n, 2).
    """
    price = items[:, _PRICE]
    step = np.diff(price)
    columns = np.zeros((len(price), 2), dtype=np.float32)
    columns[1:, 0] = step
    columns[:-1, 1] = -step
    return columns
