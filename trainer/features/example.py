"""Examples: the arrays of lists before they are padded to a batch.

Rows of a list stand in order of `rank_in`, its history newest first and filtered.

Source: docs/training.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainer.features.hash_index import hash_pairs
from trainer.features.ragged import Ragged, joined
from trainer.features.schema import PATH_MAX

_CANDIDATES: Final = (
    *("index", "entity", "num", "rank", "img", "img_mask", "txt", "txt_mask", "click", "conv", "money", "position"),
)
_BEHAVIOURS: Final = (
    *("hist_entity", "hist_type", "hist_num", "hist_img", "hist_img_mask", "hist_txt", "hist_txt_mask"),
)
_QUERIES: Final = ("query", "client", "token", "page_entity")
_LISTS: Final = (
    *("query_id", "session_id", "query_vector", "category", "path", "click_weight", "latency_ms", "weight"),
    *("num_behaviours", "num_matching", "served_by", "served_score"),
)
_NO_NODES: Final = ("",) * PATH_MAX
_VECTORS: Final = ("img", "txt", "hist_img", "hist_txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExample:
    """The example of one list of n candidates and h behaviours.

    Attributes:
        index: Row of each candidate in the source list.
        entity: Hashes of item, shop, brand and category of each candidate, (n, 4, 2); 0 = none.
        hist_type: Action code + 1.
        token: Numbers of the query's tokens, 0 = none.
        page_entity: The same as `entity` of the first items of the client's clicked pages, newest first,
            (MAX_PAGES, MAX_PAGE_ITEMS, 4, 2).
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
    entity: NDArray[np.uint64]
    num: NDArray[np.float32]
    rank: NDArray[np.int16]
    img: NDArray[np.float16]
    img_mask: NDArray[np.bool_]
    txt: NDArray[np.float16]
    txt_mask: NDArray[np.bool_]
    hist_entity: NDArray[np.uint64]
    hist_type: NDArray[np.int64]
    hist_num: NDArray[np.float32]
    hist_img: NDArray[np.float16]
    hist_img_mask: NDArray[np.bool_]
    hist_txt: NDArray[np.float16]
    hist_txt_mask: NDArray[np.bool_]
    query: NDArray[np.float32]
    client: NDArray[np.float32]
    token: NDArray[np.int64]
    page_entity: NDArray[np.uint64]
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
class Examples:
    """The examples of B lists, one list after the other.

    Attributes:
        cand, hist: The lists' candidates and behaviours.
        query, client, token, page_entity: One row per list.

    The other fields are those of `SessionExample`, with the rows of all lists, or with one value per list.
    """

    cand: Ragged
    hist: Ragged
    query_id: list[str]
    session_id: list[str | None]
    item_ids: list[str]
    index: NDArray[np.int64]
    entity: NDArray[np.uint64]
    num: NDArray[np.float32]
    rank: NDArray[np.int16]
    img: NDArray[np.float16]
    img_mask: NDArray[np.bool_]
    txt: NDArray[np.float16]
    txt_mask: NDArray[np.bool_]
    hist_entity: NDArray[np.uint64]
    hist_type: NDArray[np.int64]
    hist_num: NDArray[np.float32]
    hist_img: NDArray[np.float16]
    hist_img_mask: NDArray[np.bool_]
    hist_txt: NDArray[np.float16]
    hist_txt_mask: NDArray[np.bool_]
    query: NDArray[np.float32]
    client: NDArray[np.float32]
    token: NDArray[np.int64]
    page_entity: NDArray[np.uint64]
    query_vector: list[NDArray[np.float16]]
    category: list[str]
    path: list[tuple[str, ...]]
    click: NDArray[np.float32]
    conv: NDArray[np.float32]
    money: NDArray[np.float64]
    click_weight: list[float]
    position: NDArray[np.int32]
    latency_ms: list[float]
    weight: list[float]
    num_behaviours: list[int]
    num_matching: list[int]
    served_by: list[str | None]
    served_score: list[NDArray[np.float32] | None]

    def __len__(self) -> int:
        return len(self.query_id)

    @classmethod
    def of(cls, examples: Sequence[SessionExample]) -> "Examples":
        """Return one or more examples together.

        Of vectors of several widths the widest stay, and the others count as missing.
        """
        names = _CANDIDATES + _BEHAVIOURS + _QUERIES + _LISTS
        columns: dict[str, Any] = {name: [getattr(each, name) for each in examples] for name in names}
        for name in _VECTORS:
            _widen(columns[name], columns[f"{name}_mask"])
        columns |= {name: joined(columns[name]) for name in _CANDIDATES + _BEHAVIOURS}
        columns |= {name: np.stack(columns[name]) for name in _QUERIES}
        return cls(
            cand=Ragged.of_sizes([len(each.item_ids) for each in examples]),
            hist=Ragged.of_sizes([len(each.hist_type) for each in examples]),
            item_ids=list(chain.from_iterable(each.item_ids for each in examples)),
            **columns,
        )

    def split(self) -> list[SessionExample]:
        """Return the example of each list; arrays share memory with these."""
        return [
            SessionExample(
                item_ids=self.item_ids[a:b],
                **{name: getattr(self, name)[a:b] for name in _CANDIDATES},
                **{name: getattr(self, name)[c:d] for name in _BEHAVIOURS},
                **{name: getattr(self, name)[number] for name in _QUERIES + _LISTS},
            )
            for number, (a, b, c, d) in enumerate(
                zip(self.cand.cuts, self.cand.cuts[1:], self.hist.cuts, self.hist.cuts[1:], strict=False)
            )
        ]

    def query_entity(self) -> NDArray[np.uint64]:
        """Return hashes of category and nodes of the path of each query, (B, 1 + PATH_MAX, 2); 0 = none."""
        keys: list[str] = []
        for category, path in zip(self.category, self.path, strict=True):
            keys += (category, *path, *_NO_NODES[len(path) :])
        return hash_pairs(keys).reshape(len(self), 1 + PATH_MAX, 2)

    def take(self, which: NDArray[np.bool_]) -> "Examples":
        """Return the examples of the lists under a mask [B]."""
        if which.all():
            return self
        cand, hist = np.flatnonzero(which[self.cand.of]), np.flatnonzero(which[self.hist.of])
        columns: dict[str, Any] = {name: getattr(self, name)[cand] for name in _CANDIDATES}
        columns |= {name: getattr(self, name)[hist] for name in _BEHAVIOURS}
        columns |= {name: getattr(self, name)[which] for name in _QUERIES}
        columns |= {name: list(compress(getattr(self, name), which)) for name in _LISTS}
        return Examples(
            cand=Ragged.of_sizes(np.diff(self.cand.cuts)[which]),
            hist=Ragged.of_sizes(np.diff(self.hist.cuts)[which]),
            item_ids=[self.item_ids[row] for row in cand.tolist()],
            **columns,
        )


def _widen(vectors: list[NDArray[np.float16]], masks: list[NDArray[np.bool_]]) -> None:
    """Give all parts of a column of vectors the largest width; vectors of another one are missing."""
    width = max(part.shape[1] for part in vectors)
    for number, part in enumerate(vectors):
        if part.shape[1] != width:
            vectors[number] = np.zeros((len(part), width), part.dtype)
            masks[number] = np.zeros(len(part), np.bool_)
