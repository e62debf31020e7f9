"""Examples: the same arrays from a rank request and from the session that its impression became.

Many lists are built at once: their rows stand one after the other, list by list, and each step is one operation on all
of them. A request is a batch of one list, so both paths are one code. Rows of an example stand in order of `rank_in`:
the displayed order, a treatment, cannot leak through array order.

Source: docs/training.md.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.errors import SchemaError
from stream.schemas.events import PRODUCT, History
from stream.schemas.session import ACTION_CODES, Session
from trainer.features.categories import covers, ends_with
from trainer.features.example import SessionExample
from trainer.features.item_table import CatalogueLike, ItemTable
from trainer.features.labels import Labels, stream_labels
from trainer.features.ragged import Ragged
from trainer.features.relative import neighbour_prices, relative
from trainer.features.schema import (
    HISTORY_MAX,
    ITEM_COLUMNS,
    N_MAX,
    PATH_MAX,
    TOUCH_COLUMNS,
    TYPE_COLUMNS,
)
from trainer.features.served_list import (
    CLIENT,
    HAS_IMAGE,
    HAS_TEXT,
    TOKENS,
    VECTOR,
    ServedList,
    are_valid,
    from_one,
    from_session,
    joined,
    problem,
)

Ints = NDArray[np.int64]
Keys = tuple[list[str], list[str], list[str], list[str]]

_TOP: Final = 10
_SCALE: Final = np.array([0.2, 0.2, 0.2, 1, 1, 1, 1, 1], dtype=np.float32)
_BOUGHT: Final = ACTION_CODES["purchase"]
_RANK_LIMIT: Final = 32_767
_TYPES: Final = {name.removeprefix("type_"): column for column, name in enumerate(TYPE_COLUMNS)}


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
                found.append(from_session(session, self.catalogue, own))
            except SchemaError as error:
                found.append(error)
        if not are_valid([each for each in found if isinstance(each, ServedList)]):
            found = [problem(each) or each if isinstance(each, ServedList) else each for each in found]
        examples = iter(self._build([each for each in found if isinstance(each, ServedList)]))
        return [next(examples) if isinstance(each, ServedList) else each for each in found]

    def from_served(self, served: ServedList) -> SessionExample:
        """Return the example of one list.

        Raises:
            SchemaError: If the list is empty, a number is not finite, or a token is out of range.
        """
        if error := problem(served):
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


class _Lists:
    """The steps of building several lists. Candidates stand in order of `rank_in`, behaviours as logged."""

    def __init__(self, lists: Sequence[ServedList], items: ItemTable) -> None:
        self._lists = lists
        self._items = items
        source = Ragged.of_sizes([len(each.item_ids) for each in lists])
        ids = list(chain.from_iterable(each.item_ids for each in lists))
        rank = joined([each.rank_in for each in lists]).astype(np.int64)
        order = _in_rank_order(source, rank, ids)
        self._order = order[source.place < N_MAX]
        self._index = source.place[self._order]
        self._rank = rank[self._order]
        self._cand = source.choose(self._order)
        self._ids = [ids[row] for row in self._order.tolist()]
        self._rows = items.rows(self._ids)
        self._logged = joined([each.items for each in lists])[self._order].astype(np.float32)
        self._hist = Ragged.of_sizes([len(each.hist_item) for each in lists])
        self._hist_ids = list(chain.from_iterable(each.hist_item for each in lists))
        self._hist_rows = items.rows(self._hist_ids)
        self._action = joined([each.hist_action for each in lists]).astype(np.int64)
        self._age_h = joined([each.hist_age_s for each in lists]).astype(np.float64) / 3600
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
        img_mask = items.image.present[self._rows] & (self._logged[:, HAS_IMAGE] > 0)
        txt_mask = items.text.present[self._rows] & (self._logged[:, HAS_TEXT] > 0)
        hist_img, hist_img_mask = items.image.values[hist_rows], items.image.present[hist_rows]
        hist_txt, hist_txt_mask = items.text.values[hist_rows], items.text.present[hist_rows]
        position = self._positions()
        click, conv, money = (
            joined(parts)[self._order]
            for parts in (
                [each.labels.click for each in lists],
                [each.labels.conv for each in lists],
                [each.labels.money for each in lists],
            )
        )
        context = np.stack([each.context[:VECTOR] for each in lists])
        query, client = context[:, :CLIENT].astype(np.float32), context[:, CLIENT:TOKENS].astype(np.float32)
        token = context[:, TOKENS:].astype(np.int64)
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
                    query_vector=each.context[VECTOR:],
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
                position[rows] = from_one(each.position)[self._index[rows]]
        return position.astype(np.int32)


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
