"""Examples: the same arrays from a rank request and from the session that its impression became.

Many lists are built at once: their rows stand one after the other, list by list, and each step is one operation on all
of them. A request is a batch of one list, so both paths are one code. Rows of an example stand in order of `rank_in`:
the displayed order, a treatment, cannot leak through array order.

Source: docs/training.md.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.errors import SchemaError
from stream.schemas.events import MAX_PAGE_ITEMS, MAX_PAGES, History
from stream.schemas.session import ACTION_CODES, Session
from trainer.features.categories import covers, ends_with
from trainer.features.example import Examples, SessionExample
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
    ServedLists,
    from_sessions,
    request_list,
)

Ints = NDArray[np.int64]

_TOP: Final = 10
_SCALE: Final = np.array([0.2, 0.2, 0.2, 1, 1, 1, 1, 1], dtype=np.float32)
_BOUGHT: Final = ACTION_CODES["purchase"]
_RANK_LIMIT: Final = 32_767
_TYPES: Final = np.arange(1, 1 + len(TYPE_COLUMNS))


class ExampleBuilder:
    """A builder of examples over one catalogue, of which it keeps columns between calls."""

    def __init__(self, catalogue: CatalogueLike) -> None:
        self.catalogue = catalogue
        self._items = ItemTable(catalogue)

    def item_f16(self, item_ids: Sequence[str], price_minor: Sequence[int]) -> NDArray[np.float16]:
        """Return the columns of `ITEM_COLUMNS` of candidates at these prices, as they are logged.

        Shapes: (n, len(ITEM_COLUMNS)).
        """
        return self._items.item_f16(item_ids, price_minor)

    def from_sessions(
        self, sessions: Sequence[Session], labels: Sequence[Labels] | None = None
    ) -> tuple[Examples, dict[int, SchemaError]]:
        """Return the examples of sessions, and by number of the session the reasons why others have none.

        The labels are those of `stream_labels` unless others are given. A list that was logged without features keeps
        its prices and nothing else of the items: looking features up now would read the future. A session has no
        example if its features were logged under an unknown schema, have a wrong length or are not finite.
        """
        own = [stream_labels(session) for session in sessions] if labels is None else labels
        lists, refused = from_sessions(sessions, own, self.catalogue)
        return self._build(lists), refused

    def from_request(self, lists: ServedLists) -> Examples:
        """Return the example of the one list of a request.

        Raises:
            SchemaError: If the list is empty, a number is not finite, or a token is out of range.
        """
        if error := lists.problem(0):
            raise error
        return self._build(lists)

    def _build(self, lists: ServedLists) -> Examples:
        self._items.trim()
        return _Lists(lists, self._items).examples()


def example_from_session(session: Session, catalogue: CatalogueLike, labels: Labels | None = None) -> SessionExample:
    """Return the example of one session, as `ExampleBuilder.from_sessions`.

    Raises:
        SchemaError: If the session has none.
    """
    examples, refused = ExampleBuilder(catalogue).from_sessions([session], None if labels is None else [labels])
    if refused:
        raise refused[0]
    (example,) = examples.split()
    return example


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
) -> SessionExample:
    """Return the example of a rank request; the arguments are those of `request_list`.

    Raises:
        SchemaError: If there is no candidate, or a number is not finite.
    """
    lists = request_list(
        query_id=query_id,
        item_ids=item_ids,
        items=items,
        context=context,
        history=history,
        category=category,
        rank_in=rank_in,
        item_types=item_types,
    )
    (example,) = ExampleBuilder(catalogue).from_request(lists).split()
    return example


class _Lists:
    """The steps of building several lists. Candidates stand in order of `rank_in`, behaviours as logged."""

    def __init__(self, lists: ServedLists, items: ItemTable) -> None:
        self._lists = lists
        self._items = items
        source = lists.cand
        order = _in_rank_order(source, lists.rank_in, lists.item_ids)
        # The source row of each candidate.
        self._order = order[source.place < N_MAX]
        self._cand = source.choose(self._order)
        page_item, self._page_places = _items_of_pages(lists.hist_pages)
        rows = items.rows(lists.item_ids + lists.hist_item + page_item)
        self._rows = rows[self._order]
        self._hist_rows, self._page_rows = np.split(rows[len(order) :], [len(lists.hist_item)])
        self._logged = lists.items[self._order].astype(np.float32)
        self._hist = lists.hist
        self._age_h = lists.hist_age_s.astype(np.float64) / 3600
        self._query = np.array([items.paths.number((category or "",)) for category in lists.category], np.int64)

    def examples(self) -> Examples:
        """Return the examples."""
        lists, items, order, rows = self._lists, self._items, self._order, self._rows
        category, path = self._categories()
        matches, kept, num_matching = self._matching()
        kept = kept[self._hist.choose(kept).place < HISTORY_MAX]
        hist_rows = self._hist_rows[kept]
        # One number for each item of each list.
        code, hist_code = self._cand.of << 32 | rows, self._hist.of << 32 | self._hist_rows
        _, group, sizes = np.unique(hist_code, return_inverse=True, return_counts=True)
        count = np.log1p(sizes)[group]
        index = lists.cand.place[order]
        return Examples(
            cand=self._cand,
            hist=self._hist.choose(kept),
            query_id=lists.query_id,
            session_id=lists.session_id,
            item_ids=[lists.item_ids[row] for row in order.tolist()],
            index=index,
            entity=items.entity[rows],
            num=self._numbers(self._touches(code, hist_code, count), matches),
            rank=np.minimum(lists.rank_in[order], _RANK_LIMIT).astype(np.int16),
            img=items.image.values[rows],
            img_mask=items.image.present[rows] & (self._logged[:, HAS_IMAGE] > 0),
            txt=items.text.values[rows],
            txt_mask=items.text.present[rows] & (self._logged[:, HAS_TEXT] > 0),
            hist_entity=items.entity[hist_rows],
            hist_type=lists.hist_action[kept] + 1,
            hist_num=np.stack([count[kept], np.log1p(self._age_h[kept])], axis=1).astype(np.float32),
            hist_img=items.image.values[hist_rows],
            hist_img_mask=items.image.present[hist_rows],
            hist_txt=items.text.values[hist_rows],
            hist_txt_mask=items.text.present[hist_rows],
            query=lists.context[:, :CLIENT].astype(np.float32),
            client=lists.context[:, CLIENT:TOKENS].astype(np.float32),
            token=lists.context[:, TOKENS:].astype(np.int64),
            page_entity=self._page_entity(),
            query_vector=lists.query_vector,
            category=category,
            path=path,
            click=lists.click[order],
            conv=lists.conv[order],
            money=lists.money[order],
            click_weight=lists.click_weight,
            position=lists.position[order],
            latency_ms=lists.latency_ms,
            weight=[1.0] * len(category),
            num_behaviours=np.diff(self._hist.cuts).tolist(),
            num_matching=num_matching,
            served_by=lists.served_by,
            served_score=[
                None if score is None else score[index[start:stop]]
                for score, start, stop in zip(lists.served_score, self._cand.cuts, self._cand.cuts[1:], strict=False)
            ],
        )

    def _categories(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Return the category of each query, by default the commonest of the first candidates, and its path."""
        items, cuts = self._items, self._cand.cuts
        category, about = [own or "" for own in self._lists.category], self._query.copy()
        for number, own in enumerate(category):
            if not own:
                rows = self._rows[cuts[number] : cuts[number + 1]].tolist()
                leaf = [items.leaf[row] for row in rows[:_TOP]]
                category[number] = commonest = _commonest(leaf)
                self._query[number] = items.paths.number((commonest,))
                about[number] = items.path[rows[leaf.index(commonest)]] if commonest else 0
        return category, [items.paths.paths[number][-PATH_MAX:] for number in about.tolist()]

    def _matching(self) -> tuple[NDArray[np.bool_], Ints, list[int]]:
        """Return which candidates match the query's category, the behaviours that count, and their number by list."""
        paths, cand, hist = self._items.paths, self._cand, self._hist
        matches = paths.compare(covers, self._query[cand.of], self._items.path[self._rows])
        logged = paths.of_texts(self._lists.hist_category)
        own = self._items.path[self._hist_rows]
        # A logged category is a leaf: the path above it is that of the item, or of a candidate with the same leaf.
        fits = paths.compare(ends_with, own, logged)
        path = np.where(fits, own, logged)
        for row in np.flatnonzero(~fits).tolist():
            path[row] = self._path_of_leaf(int(hist.of[row]), int(logged[row]))
        about = self._query[hist.of]
        kept = paths.compare(covers, about, path) | paths.compare(covers, about, logged)
        num_matching = np.bincount(hist.of[kept], minlength=len(self._query))
        # A category that no candidate and no behaviour has is unknown, and says nothing about the history.
        has_match = np.bincount(cand.of[matches], minlength=len(self._query)) > 0
        is_unknown = ~has_match & (num_matching == 0)
        kept |= is_unknown[hist.of]
        sizes = np.bincount(hist.of, minlength=len(self._query))
        return matches, np.flatnonzero(kept), np.where(is_unknown, sizes, num_matching).tolist()

    def _path_of_leaf(self, number: int, logged: int) -> int:
        paths = self._items.paths.paths
        for row in self._rows[self._cand.cuts[number] : self._cand.cuts[number + 1]].tolist():
            path = int(self._items.path[row])
            if path and paths[path][-1] == paths[logged][-1]:
                return path
        return logged

    def _page_entity(self) -> NDArray[np.uint64]:
        """Return the hashes of the items of the clients' clicked pages, 0 where there is none."""
        entity = np.zeros(
            (len(self._lists.query_id), MAX_PAGES, MAX_PAGE_ITEMS, *self._items.entity.shape[1:]), np.uint64
        )
        entity.reshape(-1, *self._items.entity.shape[1:])[self._page_places] = self._items.entity[self._page_rows]
        return entity

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
        columns[row[self._lists.hist_action[touch] == _BOUGHT], 3] = 1
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
            (self._lists.item_types[self._order][:, None] == _TYPES).astype(np.float32),
            neighbour_prices(padded, mask)[mask],
        ]
        return np.concatenate(parts, axis=1)


def _in_rank_order(lists: Ragged, rank: Ints, ids: Sequence[str]) -> Ints:
    """Return the rows list by list, by rank, equal ranks by id."""
    order = np.argsort(lists.of << 32 | rank, kind="stable")
    repeated = (rank[order[1:]] == rank[order[:-1]]) & (lists.of[1:] == lists.of[:-1])
    for number in np.unique(lists.of[1:][repeated]).tolist():
        rows = range(lists.cuts[number], lists.cuts[number + 1])
        order[rows.start : rows.stop] = sorted(rows, key=lambda row: (rank[row], ids[row]))
    return order


def _items_of_pages(pages: Sequence[Sequence[Sequence[str]]]) -> tuple[list[str], Ints]:
    """Return the items of the pages of all lists, and the place of each among `MAX_PAGES` x `MAX_PAGE_ITEMS` a list."""
    found: list[str] = []
    places: list[int] = []
    for number, own in enumerate(pages):
        for page, items in enumerate(own[:MAX_PAGES]):
            start = (number * MAX_PAGES + page) * MAX_PAGE_ITEMS
            found += items[:MAX_PAGE_ITEMS]
            places += range(start, start + len(items[:MAX_PAGE_ITEMS]))
    return found, np.array(places, np.int64)


def _commonest(categories: Sequence[str]) -> str:
    known = [category for category in categories if category]
    return Counter(known).most_common(1)[0][0] if known else ""
