"""Ids that were seen and have no row yet, with the counts by which they compete for one.

Source: docs/training.md.
"""

from collections.abc import Mapping
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from trainer.features import sightings
from trainer.features.hash_index import Hashes, HashIndex
from trainer.features.sightings import Counts, Seconds, lowest

_FORGOTTEN: Final = 1 / 64
_FIRST_ROWS: Final = 1_024


class WaitingIds:
    """The waiting ids of one table.

    Args:
        limit: Ids that may wait after a boundary; of more, those with the lowest aged counts leave.
        half_life_s: Half-life of a sighting in seconds.
    """

    def __init__(self, limit: int, half_life_s: int) -> None:
        self._limit = limit
        self._half_life_s = half_life_s
        self._resize(_FIRST_ROWS)
        self._next_order = 0

    def _resize(self, rows: int) -> None:
        self._index = HashIndex(rows)
        self._counts: Counts = np.zeros(rows, np.float32)
        self._seen_s: Seconds = np.zeros(rows, np.uint32)
        self._sightings = np.zeros(rows, np.int32)
        self._order = np.full(rows, -1, np.int64)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._order >= 0))

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        columns = (self._counts, self._seen_s, self._sightings, self._order)
        return self._index.nbytes + sum(column.nbytes for column in columns)

    def add(self, ids: Hashes, seen: NDArray[np.int64], now_s: int) -> None:
        """Add sightings of distinct ids, in the order first seen."""
        rows = self._index.find(ids)
        is_new = rows < 0
        rows[is_new] = self._put(ids.take(is_new))
        self._counts[rows] = sightings.add(self._counts[rows], self._seen_s[rows], seen, now_s, self._half_life_s)
        self._seen_s[rows] = now_s
        self._sightings[rows] += seen.astype(np.int32)

    def _put(self, ids: Hashes) -> NDArray[np.int64]:
        """Return rows for new ids, with counts of 0."""
        num = len(ids.high)
        free = np.flatnonzero(self._order < 0)
        if len(free) < num:
            self._extend(num)
            free = np.flatnonzero(self._order < 0)
        rows = free[:num]
        self._index.put(rows, ids)
        self._counts[rows], self._seen_s[rows], self._sightings[rows] = 0, 0, 0
        self._order[rows] = np.arange(self._next_order, self._next_order + num)
        self._next_order += num
        return rows

    def _extend(self, num: int) -> None:
        """Make room for so many more ids, twice as much as there was at least."""
        old, order = self.to_arrays(), np.sort(self._order[self._order >= 0])
        self._resize(max(2 * len(self._order), len(order) + num))
        self._fill(np.arange(len(order)), old)
        self._order[: len(order)] = order

    def _fill(self, rows: NDArray[np.int64], arrays: Mapping[str, NDArray[np.generic]]) -> None:
        self._index.put(rows, _hashes(arrays))
        self._counts[rows] = arrays["waiting_counts"]
        self._seen_s[rows] = arrays["waiting_seen_s"]
        self._sightings[rows] = arrays["waiting_sightings"]

    def ready(self, min_sightings: int, now_s: int) -> NDArray[np.int64]:
        """Return the rows of ids seen often enough: the highest aged count first, then the order first seen."""
        rows = np.flatnonzero((self._order >= 0) & (self._sightings >= min_sightings))
        return rows[np.lexsort((self._order[rows], -self.aged(rows, now_s)))]

    def aged(self, rows: NDArray[np.int64], now_s: int) -> NDArray[np.float64]:
        """Return the aged counts of rows."""
        return sightings.aged(self._counts[rows], self._seen_s[rows], now_s, self._half_life_s)

    def take(self, rows: NDArray[np.int64], now_s: int) -> tuple[Hashes, Counts]:
        """Remove rows; return their hashes and aged counts."""
        ids = Hashes(self._index.high[rows], self._index.low[rows])
        counts = self.aged(rows, now_s)
        self._index.remove(rows)
        self._order[rows] = -1
        return ids, counts.astype(np.float32)

    def forget(self, now_s: int) -> None:
        """Remove ids that are seen no more, and those beyond the limit."""
        rows = self._in_order()
        counts = self.aged(rows, now_s)
        is_old = counts < _FORGOTTEN
        self.take(rows[is_old], now_s)
        rows, counts = rows[~is_old], counts[~is_old]
        self.take(rows[lowest(counts, self._order[rows], len(rows) - self._limit)], now_s)

    def _in_order(self) -> NDArray[np.int64]:
        rows = np.flatnonzero(self._order >= 0)
        return rows[np.argsort(self._order[rows])]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the ids in the order first seen."""
        rows = self._in_order()
        return {
            "waiting_high": self._index.high[rows],
            "waiting_low": self._index.low[rows],
            "waiting_counts": self._counts[rows],
            "waiting_seen_s": self._seen_s[rows],
            "waiting_sightings": self._sightings[rows],
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], limit: int, half_life_s: int) -> Self:
        """Return the ids that `to_arrays` wrote."""
        found = cls(limit, half_life_s)
        num = len(_hashes(arrays).high)
        found._resize(max(num, _FIRST_ROWS))
        found._fill(np.arange(num), arrays)
        found._order[:num] = np.arange(num)
        found._next_order = num
        return found


def _hashes(arrays: Mapping[str, NDArray[np.generic]]) -> Hashes:
    return Hashes(arrays["waiting_high"].astype(np.uint64), arrays["waiting_low"].astype(np.uint64))
