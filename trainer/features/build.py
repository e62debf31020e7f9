"""Examples: the same arrays from a rank request and from the session that its impression became.

Many lists are built at once: their rows stand one after the other, list by list, and each step is one operation on all
of them. A request is a batch of one list, so both paths are one code. Rows of an example stand in order of `rank_in`:
the displayed order, a treatment, cannot leak through array order.

Source: docs/training.md.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.errors import SchemaError
from stream.schemas.events import PRODUCT, History
from stream.schemas.session import ACTION_CODES, COLUMNS, Session
from trainer.features.categories import covers, ends_with
from trainer.features.example import SessionExample
from trainer.features.item_table import CatalogueLike, ItemTable
from trainer.features.labels import Labels, stream_labels
from trainer.features.ragged import Ragged
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
    TOUCH_COLUMNS,
    TYPE_COLUMNS,
    context_f16,
    item_f16,
    newest_columns,
    schema_of,
)

Ints = NDArray[np.int64]
Keys = tuple[list[str], list[str], list[str], list[str]]

_TOP: Final = 10
_SCALE: Final = np.array([0.2, 0.2, 0.2, 1, 1, 1, 1, 1], dtype=np.float32)
_HAS_IMAGE: Final = ITEM_COLUMNS.index("has_image")
_HAS_TEXT: Final = ITEM_COLUMNS.index("has_text")
_BOUGHT: Final = ACTION_CODES["purchase"]
_RANK_LIMIT: Final = 32_767
_TYPES: Final = {name.removeprefix("type_"): column for column, name in enumerate(TYPE_COLUMNS)}
_CLIENT: Final = len(QUERY_COLUMNS)
_TOKENS: Final = _CLIENT + len(CLIENT_COLUMNS)
_VECTOR: Final = len(CONTEXT_COLUMNS)


@dataclass(slots=True, kw_only=True)
class ServedList:
    """One list as served, in the form of the newest feature schema; rows in the order of the source.

    Attributes:
        items: float16 (n, len(ITEM_COLUMNS)).
        context: float16: `CONTEXT_COLUMNS`, then the query vector.
        item_types: Empty if all are products.
        hist_action, hist_age_s: (h,) codes of actions, and seconds.
        position: Displayed positions as the page counts; empty for 1 to n, None if the list was not shown yet.
    """

    query_id: str
    session_id: str | None
    item_ids: Sequence[str]
    rank_in: NDArray[np.integer[Any]]
    items: NDArray[np.float16]
    item_types: Sequence[str]
    context: NDArray[np.float16]
    hist_item: Sequence[str]
    hist_category: Sequence[str]
    hist_action: NDArray[np.integer[Any]]
    hist_age_s: NDArray[np.integer[Any]]
    category: str | None
    labels: Labels
    position: NDArray[np.integer[Any]] | None = None
    latency_ms: float = 0.0
    served_by: str | None = None
    served_score: NDArray[np.float32] | None = None


class ExampleBuilder:
    """A builder of examples over one catalogue, of which it keeps columns between calls."""

    def __init__(self, catalogue: CatalogueLike) -> None:
        self.catalogue = catalogue
        self._items = ItemTable(catalogue)

    def from_sessions(
        self, sessions: Sequence[Session], labels: Sequence[Labels] | None = None
    ) -> list[SessionExample | SchemaError]:
        """Return the example of each session, or the reason why it has none.

        The labels are those of `stream_labels` unless others are given. A list that was logged without features keeps
        its prices and nothing else of the items: looking features up now would read the future. A session has no
        example if its features were logged under an unknown schema, have a wrong length or are not finite.
        """
        found: list[ServedList | SchemaError] = []
        for number, session in enumerate(sessions):
            try:
                own = stream_labels(session) if labels is None else labels[number]
                found.append(_from_session(session, self.catalogue, own))
            except SchemaError as error:
                found.append(error)
        if not _are_valid([each for each in found if isinstance(each, ServedList)]):
            found = [_problem(each) or each if isinstance(each, ServedList) else each for each in found]
        examples = iter(self._build([each for each in found if isinstance(each, ServedList)]))
        return [next(examples) if isinstance(each, ServedList) else each for each in found]

    def from_served(self, served: ServedList) -> SessionExample:
        """Return the example of one list.

        Raises:
            SchemaError: If the list is empty, a number is not finite, or a token is out of range.
        """
        if error := _problem(served):
            raise error
        return self._build([served])[0]

    def _build(self, lists: Sequence[ServedList]) -> list[SessionExample]:
        if not lists:
            return []
        self._items.trim()
        return _Lists(lists, self._items).examples()


def example_from_session(session: Session, catalogue: CatalogueLike, labels: Labels | None = None) -> SessionExample:
    """Return the example of one session, as `ExampleBuilder.from_sessions`.

    Raises:
        SchemaError: If the session has none.
    """
    (found,) = ExampleBuilder(catalogue).from_sessions([session], None if labels is None else [labels])
    if isinstance(found, SchemaError):
        raise found
    return found


def example_from_request(
    *,
    query_id: str,
    item_ids: Sequence[str],
    items: NDArray[np.float16],
    context: NDArray[np.float16],
    history: History | None,
    category: str | None,
    catalogue: CatalogueLike | ExampleBuilder,
    rank_in: Sequence[int] | None = None,
    item_types: Sequence[str] = (),
    session_id: str | None = None,
) -> SessionExample:
    """Return the example of a rank request, from the very values that its impression will log.

    `items` is `item_f16` of the candidates in incoming order, `context` is `context_f16`; without `rank_in` the
    incoming order gives the ranks, without `item_types` all are products. A builder in place of the catalogue keeps
    what it has read of it.

    Raises:
        SchemaError: If there is no candidate, or a number is not finite.
    """
    n = len(item_ids)
    builder = catalogue if isinstance(catalogue, ExampleBuilder) else ExampleBuilder(catalogue)
    return builder.from_served(
        ServedList(
            query_id=query_id,
            session_id=session_id,
            item_ids=item_ids,
            rank_in=np.arange(1, n + 1) if rank_in is None else np.asarray(rank_in, dtype=np.int64),
            items=items,
            item_types=item_types,
            context=context,
            hist_item=history.object_id if history else [],
            hist_category=history.category if history else [],
            hist_action=np.array([ACTION_CODES.get(name, 0) for name in history.action] if history else [], np.int64),
            hist_age_s=np.array(history.age_s if history else [], np.int64),
            category=category,
            labels=Labels.none(n),
        )
    )


def displayed_positions(session: Session) -> NDArray[np.int32]:
    """Return the position of each item on the page, from 1; a page that counts from 0 is moved by one.

    Shapes: (n,), rows in shown order.
    """
    logged = _read_position(session.position)
    return _from_one(logged) if logged.size else np.arange(1, session.n + 1, dtype=np.int32)


def _from_one(position: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    return position.astype(np.int32) + np.int32(position.min() == 0)


def _reader(name: str) -> Callable[[bytes], NDArray[Any]]:
    """Return the function that reads a column of a session; looking its dtype up takes longer than reading it."""
    dtype = np.dtype(COLUMNS[name].dtype)
    return lambda raw: np.frombuffer(raw, dtype)


_read_item_f16, _read_context_f16 = _reader("item_f16"), _reader("context_f16")
_read_rank_in, _read_position, _read_score = _reader("rank_in"), _reader("position"), _reader("score")
_read_action, _read_age_s = _reader("hist_action"), _reader("hist_age_s")


def _from_session(session: Session, catalogue: CatalogueLike, labels: Labels) -> ServedList:
    n = session.n
    if session.feature_schema:
        items, context = _logged(session)
    else:
        items = item_f16([None] * n, session.column("price_minor"))
        items[:, _HAS_IMAGE] = [catalogue.image(item_id) is not None for item_id in session.item_id]
        items[:, _HAS_TEXT] = [catalogue.text(item_id) is not None for item_id in session.item_id]
        context = context_f16(event_ts=session.impression_ts)
    score = None if session.version is None else _read_score(session.score)
    has_score = score is not None and score.size == n
    return ServedList(
        query_id=session.query_id,
        session_id=session.session_id,
        item_ids=session.item_id,
        rank_in=_read_rank_in(session.rank_in),
        items=items,
        item_types=session.item_type,
        context=context,
        hist_item=session.hist_item,
        hist_category=session.hist_category,
        hist_action=_read_action(session.hist_action),
        hist_age_s=_read_age_s(session.hist_age_s),
        category=session.query_category,
        labels=labels,
        position=_read_position(session.position),
        latency_ms=session.latency_us / 1_000,
        served_by=session.lineage if has_score else None,
        served_score=score if has_score else None,
    )


def _logged(session: Session) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return the items' rows and the context of a session, in the form of the newest schema.

    Raises:
        SchemaError: If the schema under which they were logged is unknown, or they have another length.
    """
    schema = schema_of(session.feature_schema.hex())
    items, context = _read_item_f16(session.item_f16), _read_context_f16(session.context_f16)
    num_items, num_context = session.n * len(schema.item), len(schema.context)
    num_more = context.size - num_context
    if items.size != num_items or num_more < 0 or (num_more > 0 and not schema.reads_query):
        raise SchemaError(
            "feature_shape",
            f"query {session.query_id}, feature schema {schema.number}: {items.size} item and {context.size} context"
            f" values, expected {num_items} and {num_context}",
        )
    items = items.reshape(session.n, len(schema.item))
    if schema.item != ITEM_COLUMNS:
        items = newest_columns(items, schema.item, ITEM_COLUMNS)
    if schema.context != CONTEXT_COLUMNS:
        head = newest_columns(context[None, :num_context], schema.context, CONTEXT_COLUMNS)
        context = np.concatenate([head[0], context[num_context:]])
    return items, context


def _are_valid(lists: Sequence[ServedList]) -> bool:
    """Return whether all lists can be built."""
    if not lists:
        return True
    token = np.stack([each.context[_TOKENS:_VECTOR] for each in lists])
    return (
        all(len(each.item_ids) for each in lists)
        and bool(np.isfinite(_joined([each.items for each in lists])).all())
        and bool(np.isfinite(_joined([each.context for each in lists])).all())
        and bool((token >= 0).all() and (token < TOKEN_BUCKETS).all())
    )


def _problem(served: ServedList) -> SchemaError | None:
    """Return the reason why a list cannot be built, or None."""
    if not len(served.item_ids):
        return SchemaError("empty_list", f"query {served.query_id}: no candidate")
    if not (np.isfinite(served.items).all() and np.isfinite(served.context).all()):
        return SchemaError("feature_not_finite", f"query {served.query_id}: a feature is NaN or infinite")
    token = served.context[_TOKENS:_VECTOR]
    if token.min() < 0 or token.max() >= TOKEN_BUCKETS:
        found = token.astype(int).tolist()
        return SchemaError(
            "feature_range", f"query {served.query_id}: tokens {found}, expected 0 to {TOKEN_BUCKETS - 1}"
        )
    return None


class _Lists:
    """The steps of building several lists. Candidates stand in order of `rank_in`, behaviours as logged."""

    def __init__(self, lists: Sequence[ServedList], items: ItemTable) -> None:
        self._lists = lists
        self._items = items
        source = Ragged.of_sizes([len(each.item_ids) for each in lists])
        ids = list(chain.from_iterable(each.item_ids for each in lists))
        rank = _joined([each.rank_in for each in lists]).astype(np.int64)
        order = _in_rank_order(source, rank, ids)
        self._order = order[source.place < N_MAX]
        self._index = source.place[self._order]
        self._rank = rank[self._order]
        self._cand = source.choose(self._order)
        self._ids = [ids[row] for row in self._order.tolist()]
        self._rows = items.rows(self._ids)
        self._logged = _joined([each.items for each in lists])[self._order].astype(np.float32)
        self._hist = Ragged.of_sizes([len(each.hist_item) for each in lists])
        self._hist_ids = list(chain.from_iterable(each.hist_item for each in lists))
        self._hist_rows = items.rows(self._hist_ids)
        self._action = _joined([each.hist_action for each in lists]).astype(np.int64)
        self._age_h = _joined([each.hist_age_s for each in lists]).astype(np.float64) / 3600
        self._query = np.array([items.paths.number((each.category or "",)) for each in lists], np.int64)

    def examples(self) -> list[SessionExample]:
        """Return the examples."""
        lists, items, cand = self._lists, self._items, self._cand
        keys = self._keys(self._ids, self._rows)
        category, path = self._categories(keys[3])
        matches, kept, num_matching = self._matching()
        kept = kept[self._hist.choose(kept).place < HISTORY_MAX]
        hist, hist_rows = self._hist.choose(kept), self._hist_rows[kept]
        hist_keys = self._keys([self._hist_ids[row] for row in kept.tolist()], hist_rows)
        code, hist_code = self._codes()
        _, group, sizes = np.unique(hist_code, return_inverse=True, return_counts=True)
        count = np.log1p(sizes)[group]
        num = self._numbers(self._touches(code, hist_code, count), matches)
        hist_num = np.stack([count[kept], np.log1p(self._age_h[kept])], axis=1).astype(np.float32)
        hist_type = self._action[kept] + 1
        rank = np.minimum(self._rank, _RANK_LIMIT).astype(np.int16)
        img, txt = items.image.values[self._rows], items.text.values[self._rows]
        img_mask = items.image.present[self._rows] & (self._logged[:, _HAS_IMAGE] > 0)
        txt_mask = items.text.present[self._rows] & (self._logged[:, _HAS_TEXT] > 0)
        hist_img, hist_img_mask = items.image.values[hist_rows], items.image.present[hist_rows]
        hist_txt, hist_txt_mask = items.text.values[hist_rows], items.text.present[hist_rows]
        position = self._positions()
        click, conv, money = (
            _joined(parts)[self._order]
            for parts in (
                [each.labels.click for each in lists],
                [each.labels.conv for each in lists],
                [each.labels.money for each in lists],
            )
        )
        context = np.stack([each.context[:_VECTOR] for each in lists])
        query, client = context[:, :_CLIENT].astype(np.float32), context[:, _CLIENT:_TOKENS].astype(np.float32)
        token = context[:, _TOKENS:].astype(np.int64)
        found: list[SessionExample] = []
        for number, each in enumerate(lists):
            a, b = cand.cuts[number], cand.cuts[number + 1]
            c, d = hist.cuts[number], hist.cuts[number + 1]
            index = self._index[a:b]
            found.append(
                SessionExample(
                    query_id=each.query_id,
                    session_id=each.session_id,
                    item_ids=keys[0][a:b],
                    index=index,
                    entity=(keys[0][a:b], keys[1][a:b], keys[2][a:b], keys[3][a:b]),
                    num=num[a:b],
                    rank=rank[a:b],
                    img=img[a:b],
                    img_mask=img_mask[a:b],
                    txt=txt[a:b],
                    txt_mask=txt_mask[a:b],
                    hist_entity=(hist_keys[0][c:d], hist_keys[1][c:d], hist_keys[2][c:d], hist_keys[3][c:d]),
                    hist_type=hist_type[c:d],
                    hist_num=hist_num[c:d],
                    hist_img=hist_img[c:d],
                    hist_img_mask=hist_img_mask[c:d],
                    hist_txt=hist_txt[c:d],
                    hist_txt_mask=hist_txt_mask[c:d],
                    query=query[number],
                    client=client[number],
                    token=token[number],
                    query_vector=each.context[_VECTOR:],
                    category=category[number],
                    path=path[number],
                    click=click[a:b],
                    conv=conv[a:b],
                    money=money[a:b],
                    click_weight=each.labels.click_weight,
                    position=position[a:b],
                    latency_ms=each.latency_ms,
                    num_behaviours=len(each.hist_item),
                    num_matching=num_matching[number],
                    served_by=each.served_by,
                    served_score=None if each.served_score is None else each.served_score[index],
                )
            )
        return found

    def _keys(self, ids: list[str], rows: Ints) -> Keys:
        table = self._items
        return ids, table.shop[rows].tolist(), table.brand[rows].tolist(), table.leaf[rows].tolist()

    def _categories(self, leaf: list[str]) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return the category of each query, by default the commonest of the first candidates, and its path."""
        paths, cuts = self._items.paths, self._cand.cuts
        category: list[str] = []
        path: list[tuple[str, ...]] = []
        for number, each in enumerate(self._lists):
            own, about = each.category or "", self._query[number]
            if not own:
                start, stop = cuts[number], cuts[number + 1]
                own = _commonest(leaf[start : min(start + _TOP, stop)])
                self._query[number] = about = paths.number((own,))
                if own:
                    about = self._items.path[self._rows[leaf.index(own, start, stop)]]
            category.append(own)
            path.append(paths.paths[about][-PATH_MAX:])
        return category, path

    def _matching(self) -> tuple[NDArray[np.bool_], Ints, list[int]]:
        """Return which candidates match the query's category, the behaviours that count, and their number by list."""
        paths, cand, hist = self._items.paths, self._cand, self._hist
        matches = paths.compare(covers, self._query[cand.of], self._items.path[self._rows])
        logged = paths.of_texts(chain.from_iterable(each.hist_category for each in self._lists))
        own = self._items.path[self._hist_rows]
        # A logged category is a leaf: the path above it is that of the item, or of a candidate with the same leaf.
        fits = paths.compare(ends_with, own, logged)
        path = np.where(fits, own, logged)
        for row in np.flatnonzero(~fits).tolist():
            path[row] = self._path_of_leaf(int(hist.of[row]), int(logged[row]))
        about = self._query[hist.of]
        kept = paths.compare(covers, about, path) | paths.compare(covers, about, logged)
        num_matching = np.bincount(hist.of[kept], minlength=len(self._lists))
        # A category that no candidate and no behaviour has is unknown, and says nothing about the history.
        has_match = np.bincount(cand.of[matches], minlength=len(self._lists)) > 0
        is_unknown = ~has_match & (num_matching == 0)
        kept |= is_unknown[hist.of]
        sizes = np.bincount(hist.of, minlength=len(self._lists))
        return matches, np.flatnonzero(kept), np.where(is_unknown, sizes, num_matching).tolist()

    def _path_of_leaf(self, number: int, logged: int) -> int:
        paths = self._items.paths.paths
        for row in self._rows[self._cand.cuts[number] : self._cand.cuts[number + 1]].tolist():
            path = int(self._items.path[row])
            if path and paths[path][-1] == paths[logged][-1]:
                return path
        return logged

    def _codes(self) -> tuple[Ints, Ints]:
        """Return numbers of the candidates and of the behaviours that tell apart both lists and items."""
        numbers: dict[str, int] = {}
        code, hist_code = (
            np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
            for keys in (self._ids, self._hist_ids)
        )
        return self._cand.of << 32 | code, self._hist.of << 32 | hist_code

    def _touches(self, code: Ints, hist_code: Ints, count: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return `TOUCH_COLUMNS` of the candidates, without the last one."""
        columns = np.zeros((len(code), len(TOUCH_COLUMNS) - 1), dtype=np.float32)
        by_code = np.argsort(code, kind="stable")
        place = np.searchsorted(code[by_code], hist_code, side="right") - 1
        row = by_code[np.maximum(place, 0)]
        touch = np.flatnonzero(code[row] == hist_code)
        row = row[touch]
        columns[row, 0] = count[touch]
        # Oldest first, so that the newest touch of an item is the one that stays.
        columns[row[::-1], 1] = 1 / (1 + self._age_h[touch[::-1]])
        _, newest = np.unique(self._hist.of[touch], return_index=True)
        columns[row[newest], 2] = 1
        columns[row[self._action[touch] == _BOUGHT], 3] = 1
        return columns

    def _numbers(self, touches: NDArray[np.float32], matches: NDArray[np.bool_]) -> NDArray[np.float32]:
        mask = self._cand.mask()
        padded = np.zeros((*mask.shape, len(ITEM_COLUMNS)), dtype=np.float32)
        padded[mask] = self._logged
        parts = [
            self._logged * _SCALE,
            relative(padded, mask)[mask],
            touches,
            matches[:, None].astype(np.float32),
            self._types(),
            neighbour_prices(padded, mask)[mask],
        ]
        return np.concatenate(parts, axis=1)

    def _types(self) -> NDArray[np.float32]:
        columns = np.zeros((len(self._order), len(TYPE_COLUMNS)), dtype=np.float32)
        for number, each in enumerate(self._lists):
            if each.item_types:
                start, stop = self._cand.cuts[number], self._cand.cuts[number + 1]
                for row, place in enumerate(self._index[start:stop].tolist(), start):
                    if (name := each.item_types[place]) != PRODUCT:
                        columns[row, _TYPES.get(name, _TYPES["other"])] = 1
        return columns

    def _positions(self) -> NDArray[np.int32]:
        """Return the positions on the page, from 1; a page that counts from 0 is moved by one, 0 = not shown yet."""
        position = self._index + 1
        for number, each in enumerate(self._lists):
            rows = slice(self._cand.cuts[number], self._cand.cuts[number + 1])
            if each.position is None:
                position[rows] = 0
            elif each.position.size:
                position[rows] = _from_one(each.position)[self._index[rows]]
        return position.astype(np.int32)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _in_rank_order(lists: Ragged, rank: Ints, ids: Sequence[str]) -> Ints:
    """Return the rows list by list, by rank, equal ranks by id."""
    order = np.argsort(lists.of << 32 | rank, kind="stable")
    repeated = (rank[order[1:]] == rank[order[:-1]]) & (lists.of[1:] == lists.of[:-1])
    for number in np.unique(lists.of[1:][repeated]).tolist():
        rows = range(lists.cuts[number], lists.cuts[number + 1])
        order[rows.start : rows.stop] = sorted(rows, key=lambda row: (rank[row], ids[row]))
    return order


def _commonest(categories: Sequence[str]) -> str:
    known = [category for category in categories if category]
    return Counter(known).most_common(1)[0][0] if known else ""
