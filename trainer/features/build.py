"""Examples: the same arrays from a rank request and from the session that its impression became.

Rows of an example stand in order of `rank_in`, so the displayed order, a treatment, cannot leak through array order.

Source: docs/training.md.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.errors import SchemaError
from stream.schemas.events import PRODUCT, History, Item
from stream.schemas.session import ACTION_CODES, Session
from trainer.features.categories import Path, covers, nodes
from trainer.features.relative import neighbour_prices, relative
from trainer.features.schema import (
    CLIENT_COLUMNS,
    CONTEXT_COLUMNS,
    HISTORY_MAX,
    ITEM_COLUMNS,
    N_MAX,
    PATH_MAX,
    QUERY_COLUMNS,
    TOKEN_BUCKETS,
    TYPE_COLUMNS,
    context_f16,
    item_f16,
    newest_columns,
    schema_of,
)

Vector = NDArray[np.float16] | NDArray[np.float32]

_TOP: Final = 10
_SCALE: Final = np.array([0.2, 0.2, 0.2, 1, 1, 1, 1, 1], dtype=np.float32)
_HAS_IMAGE: Final = ITEM_COLUMNS.index("has_image")
_HAS_TEXT: Final = ITEM_COLUMNS.index("has_text")
_BOUGHT: Final = ACTION_CODES["purchase"]
_RANK_LIMIT: Final = 32_767
_TYPES: Final = {name.removeprefix("type_"): column for column, name in enumerate(TYPE_COLUMNS)}
_CLIENT: Final = len(QUERY_COLUMNS)
_TOKENS: Final = _CLIENT + len(CLIENT_COLUMNS)


class CatalogueLike(Protocol):
    """The part of the item catalogue that the builder reads."""

    def get(self, item_id: str, /) -> Item | None:
        """Return the record of an item, or None."""

    def image(self, item_id: str, /) -> NDArray[np.floating] | None:
        """Return the image vector of an item, or None."""

    def text(self, item_id: str, /) -> NDArray[np.floating] | None:
        """Return the text vector of an item, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Training labels of a list, rows in the order of the source list.

    Attributes:
        click, conv: 0 or 1.
        money: Minor units of the converted items.
        click_weight: 0 takes the list out of the click loss.
    """

    click: NDArray[np.float32]
    conv: NDArray[np.float32]
    money: NDArray[np.float64]
    click_weight: float = 1.0

    @classmethod
    def none(cls, n: int) -> "Labels":
        """Return empty labels: a request has none."""
        return cls(click=np.zeros(n, np.float32), conv=np.zeros(n, np.float32), money=np.zeros(n, np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExample:
    """One list ready for `collate`; rows in order of `rank_in`, history newest first and filtered.

    Attributes:
        index: Row of each candidate in the source list.
        entity: Keys of (item, shop, brand, category) per candidate; "" = none.
        hist_type: Action code + 1.
        token: Numbers of the query's tokens, 0 = none.
        query_vector: The shop's vector of the query; empty if it sends none.
        path: Nodes of the query's category, root first: the deepest `PATH_MAX`.
        position: Displayed position of each candidate, from 1; 0 = unknown, as in a request. For losses and evaluation.
        latency_ms: Time that ranking took; 0 = unknown. For losses and evaluation.
        served_by: Lineage whose version ranked the list when it was shown; None if no version did.
        served_score: The scores by which it was ranked. For evaluation: no batch holds them.
    """

    query_id: str
    session_id: str | None
    item_ids: list[str]
    index: NDArray[np.int64]
    entity: tuple[list[str], list[str], list[str], list[str]]
    num: NDArray[np.float32]
    rank: NDArray[np.int16]
    img: NDArray[np.float16]
    img_mask: NDArray[np.bool_]
    txt: NDArray[np.float16]
    txt_mask: NDArray[np.bool_]
    hist_entity: tuple[list[str], list[str], list[str], list[str]]
    hist_type: NDArray[np.int64]
    hist_num: NDArray[np.float32]
    hist_img: NDArray[np.float16]
    hist_img_mask: NDArray[np.bool_]
    hist_txt: NDArray[np.float16]
    hist_txt_mask: NDArray[np.bool_]
    query: NDArray[np.float32]
    client: NDArray[np.float32]
    token: NDArray[np.int64]
    query_vector: NDArray[np.float16]
    category: str
    path: tuple[str, ...]
    click: NDArray[np.float32]
    conv: NDArray[np.float32]
    money: NDArray[np.float64]
    click_weight: float
    position: NDArray[np.int32]
    latency_ms: float = 0.0
    weight: float = 1.0
    num_behaviours: int = 0
    num_matching: int = 0
    served_by: str | None = None
    served_score: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Behaviours:
    item: Sequence[str]
    category: Sequence[str]
    action: NDArray[np.int64]
    age_s: NDArray[np.float64]


def item_category(item: Item | None) -> str:
    """Return the leaf category of an item, "" when unknown."""
    return item.category_ids[-1] if item is not None and item.category_ids else ""


def stream_labels(session: Session) -> Labels:
    """Return what this revision of a session trains, so that every label is trained once.

    Revision 0 trains the clicks and the items bought so far; a later revision trains only its newly bought items.
    """
    orders = session.column("orders") > 0
    new = np.ones(session.n, dtype=np.bool_)
    if session.revision > 0:
        new = np.zeros(session.n, dtype=np.bool_)
        if session.reason == "conversion":
            new[session.column("changed")] = True
    conv = orders & new
    return Labels(
        click=((session.column("clicks") > 0) | (session.column("carts") > 0) | orders).astype(np.float32),
        conv=conv.astype(np.float32),
        money=np.where(conv, session.column("gross_minor"), 0).astype(np.float64),
        click_weight=1.0 if session.revision == 0 else 0.0,
    )


def final_labels(session: Session) -> Labels:
    """Return the labels of a session as of its revision, all of them: for evaluation and snapshot fits."""
    conv = session.column("orders") > 0
    return Labels(
        click=((session.column("clicks") > 0) | (session.column("carts") > 0) | conv).astype(np.float32),
        conv=conv.astype(np.float32),
        money=np.where(conv, session.column("gross_minor"), 0).astype(np.float64),
    )


def displayed_positions(session: Session) -> NDArray[np.int32]:
    """Return the position of each item on the page, from 1; a page that counts from 0 is moved by one.

    Shapes: (n,), rows in shown order.
    """
    logged = session.column("position").astype(np.int32)
    if not logged.size:
        return np.arange(1, session.n + 1, dtype=np.int32)
    return logged + np.int32(logged.min() == 0)


def example_from_session(session: Session, catalogue: CatalogueLike, labels: Labels | None = None) -> SessionExample:
    """Return the example of a session, with the labels of `stream_labels` unless others are given.

    A list that was logged without features keeps its prices and nothing else of the items: looking features up now
    would read the future.

    Raises:
        SchemaError: If the features were logged under another schema, have a wrong length or are not finite.
    """
    n = session.n
    if session.feature_schema:
        items, context = _logged(session)
    else:
        items = item_f16([None] * n, session.column("price_minor"))
        items[:, _HAS_IMAGE] = [catalogue.image(item_id) is not None for item_id in session.item_id]
        items[:, _HAS_TEXT] = [catalogue.text(item_id) is not None for item_id in session.item_id]
        context = context_f16(event_ts=session.impression_ts)
    example = _build(
        query_id=session.query_id,
        session_id=session.session_id,
        item_ids=session.item_id,
        rank_in=session.column("rank_in").astype(np.int64),
        items=items.astype(np.float32),
        item_types=session.item_type,
        context=context,
        behaviours=_Behaviours(
            item=session.hist_item,
            category=session.hist_category,
            action=np.frombuffer(session.hist_action, dtype=np.uint8).astype(np.int64),
            age_s=session.column("hist_age_s").astype(np.float64),
        ),
        category=session.query_category,
        catalogue=catalogue,
        labels=stream_labels(session) if labels is None else labels,
        position=displayed_positions(session),
        latency_ms=session.latency_us / 1_000,
    )
    score = session.column("score")
    if session.version is None or score.size != n:
        return example
    return replace(example, served_by=session.lineage, served_score=score[example.index])


def _logged(session: Session) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return the items' rows and the context of a session, in the form of the newest schema.

    Raises:
        SchemaError: If the schema under which they were logged is unknown, or they have another length.
    """
    schema = schema_of(session.feature_schema.hex())
    items, context = session.column("item_f16"), session.column("context_f16")
    num_more = context.size - len(schema.context)
    if items.size != session.n * len(schema.item) or num_more < 0 or (num_more > 0 and not schema.reads_query):
        raise SchemaError(
            "feature_shape",
            f"query {session.query_id}, feature schema {schema.number}: {items.size} item and {context.size} context"
            f" values, expected {session.n * len(schema.item)} and {len(schema.context)}",
        )
    rows = newest_columns(items.reshape(session.n, -1), schema.item, ITEM_COLUMNS)
    head = newest_columns(context[None, : len(schema.context)], schema.context, CONTEXT_COLUMNS)
    return rows, np.concatenate([head[0], context[len(schema.context) :]])


def example_from_request(
    *,
    query_id: str,
    item_ids: Sequence[str],
    items: NDArray[np.float16],
    context: NDArray[np.float16],
    history: History | None,
    category: str | None,
    catalogue: CatalogueLike,
    rank_in: Sequence[int] | None = None,
    item_types: Sequence[str] = (),
    session_id: str | None = None,
) -> SessionExample:
    """Return the example of a rank request, from the very values that its impression will log.

    `items` is `item_f16` of the candidates in incoming order, `context` is `context_f16`; without `rank_in` the
    incoming order gives the ranks, without `item_types` all are products.
    """
    ranks = np.arange(1, len(item_ids) + 1) if rank_in is None else np.asarray(rank_in, dtype=np.int64)
    return _build(
        query_id=query_id,
        session_id=session_id,
        item_ids=item_ids,
        rank_in=ranks.astype(np.int64),
        items=items.astype(np.float32),
        item_types=item_types,
        context=context,
        behaviours=_Behaviours(
            item=history.object_id if history else [],
            category=history.category if history else [],
            action=np.array([ACTION_CODES.get(action, 0) for action in history.action] if history else [], np.int64),
            age_s=np.array(history.age_s if history else [], np.float64),
        ),
        category=category,
        catalogue=catalogue,
        labels=Labels.none(len(item_ids)),
        position=np.zeros(len(item_ids), np.int32),
    )


def _build(
    *,
    query_id: str,
    session_id: str | None,
    item_ids: Sequence[str],
    rank_in: NDArray[np.int64],
    items: NDArray[np.float32],
    item_types: Sequence[str],
    context: NDArray[np.float16],
    behaviours: _Behaviours,
    category: str | None,
    catalogue: CatalogueLike,
    labels: Labels,
    position: NDArray[np.int32],
    latency_ms: float = 0.0,
) -> SessionExample:
    if not len(item_ids):
        raise SchemaError("empty_list", f"query {query_id}: no candidate")
    if not (np.isfinite(items).all() and np.isfinite(context).all()):
        raise SchemaError("feature_not_finite", f"query {query_id}: a feature is NaN or infinite")
    token = context[_TOKENS : len(CONTEXT_COLUMNS)].astype(np.int64)
    if token.min() < 0 or token.max() >= TOKEN_BUCKETS:
        raise SchemaError(
            "feature_range", f"query {query_id}: tokens {token.tolist()}, expected 0 to {TOKEN_BUCKETS - 1}"
        )
    index = np.argsort(rank_in, kind="stable")
    if np.unique(rank_in).size != rank_in.size:
        index = np.array(sorted(range(len(item_ids)), key=lambda row: (rank_in[row], item_ids[row])), dtype=np.int64)
    index = index[:N_MAX]
    ids = [item_ids[row] for row in index]
    entity = _entities(ids, catalogue)
    query_category = category or _commonest(entity[3][:_TOP])
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
        _types(item_types, index),
        neighbour_prices(items),
    ]
    return SessionExample(
        query_id=query_id,
        session_id=session_id,
        item_ids=ids,
        index=index,
        entity=entity,
        num=np.concatenate(numbers, axis=1),
        rank=np.minimum(rank_in[index], _RANK_LIMIT).astype(np.int16),
        img=img,
        img_mask=img_mask & (items[:, _HAS_IMAGE] > 0),
        txt=txt,
        txt_mask=txt_mask & (items[:, _HAS_TEXT] > 0),
        hist_entity=_entities(hist_ids, catalogue),
        hist_type=behaviours.action[kept] + 1,
        hist_num=hist_num,
        hist_img=hist_img,
        hist_img_mask=hist_img_mask,
        hist_txt=hist_txt,
        hist_txt_mask=hist_txt_mask,
        query=context[:_CLIENT].astype(np.float32),
        client=context[_CLIENT:_TOKENS].astype(np.float32),
        token=token,
        query_vector=context[len(CONTEXT_COLUMNS) :],
        category=query_category,
        path=_query_path(query, query_category, paths, entity[3], is_given=bool(category))[-PATH_MAX:],
        num_behaviours=len(behaviours.item),
        num_matching=len(behaviours.item) if is_unknown else len(matching),
        click=labels.click[index],
        conv=labels.conv[index],
        money=labels.money[index],
        click_weight=labels.click_weight,
        position=position[index],
        latency_ms=latency_ms,
    )


def _entities(ids: Sequence[str], catalogue: CatalogueLike) -> tuple[list[str], list[str], list[str], list[str]]:
    records = [catalogue.get(item_id) for item_id in ids]
    shops = [(record.shop_id or "") if record is not None else "" for record in records]
    brands = [(record.brand_id or "") if record is not None else "" for record in records]
    return list(ids), shops, brands, [item_category(record) for record in records]


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


class _VectorLookup(Protocol):
    def __call__(self, item_id: str, /) -> NDArray[np.floating] | None: ...


def _vectors(ids: Sequence[str], lookup: _VectorLookup) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
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
            columns[row, 3] = max(columns[row, 3], float(behaviours.action[behaviour] == _BOUGHT))
            newest_row = row
    if newest_row >= 0:
        columns[newest_row, 2] = 1
    return columns
