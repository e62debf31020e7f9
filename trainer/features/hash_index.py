"""Hashes of ids, and the index from hashes to rows in open addressing.

An id is known by 128 bits of its BLAKE2b hash, so a row costs the same for an id of any length.

Source: docs/adr/0015-ids-by-hash.md; Knuth, The Art of Computer Programming, volume 3, section 6.4 (linear probing).
"""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EMPTY: Final = -1
_REMOVED: Final = -2
_NO_ID: Final = bytes(16)


class Hashes(NamedTuple):
    """The two halves of 128-bit hashes, shape (k,) each; both 0 for the empty string."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]

    @classmethod
    def of(cls, pairs: NDArray[np.uint64]) -> "Hashes":
        """Return hashes from their two halves side by side, (k, 2)."""
        return cls(pairs[:, 0], pairs[:, 1])

    @property
    def is_none(self) -> NDArray[np.bool_]:
        """Flags of the empty string, (k,)."""
        none: NDArray[np.bool_] = (self.high == 0) & (self.low == 0)
        return none

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> "Hashes":
        """Return the hashes at these places, or under this mask."""
        return Hashes(self.high[which], self.low[which])


@lru_cache(maxsize=65_536)
def _digest(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=16).digest() if key else _NO_ID


def hash_pairs(keys: Iterable[str]) -> NDArray[np.uint64]:
    """Return the halves of the hashes of keys side by side, (k, 2); both are 0 for the empty string."""
    return np.frombuffer(b"".join(map(_digest, keys)), "<u8").reshape(-1, 2)


class HashIndex:
    """Hash to row, with the rows numbered by the caller.

    Args:
        capacity: Rows, numbered from 0.

    Attributes:
        high, low: Hash of each row in use, (capacity,).
    """

    def __init__(self, capacity: int) -> None:
        self.high = np.zeros(capacity, np.uint64)
        self.low = np.zeros(capacity, np.uint64)
        self._places = _places(capacity)
        self._num_free = len(self._places)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self.high.nbytes + self.low.nbytes + self._places.nbytes

    def find(self, wanted: Hashes) -> NDArray[np.int64]:
        """Return the row of each hash, -1 where there is none; shape (k,)."""
        rows = np.full(len(wanted.high), -1, np.int64)
        todo, at = np.arange(len(rows)), self._home(wanted)
        while todo.size:
            row = self._places[at]
            same = (self.high[row] == wanted.high[todo]) & (self.low[row] == wanted.low[todo]) & (row >= 0)
            rows[todo[same]] = row[same]
            goes_on = ~same & (row != _EMPTY)
            todo, at = todo[goes_on], self._next(at[goes_on])
        return rows

    def put(self, rows: NDArray[np.int64], new: Hashes) -> None:
        """Give unused rows to hashes; the hashes are distinct and have no row yet."""
        self.high[rows], self.low[rows] = new
        # With a quarter of the places free, a search ends after a few steps.
        if self._num_free - len(rows) < len(self._places) // 4:
            used = self._places[self._places >= 0]
            self._places.fill(_EMPTY)
            self._num_free = len(self._places)
            rows = np.concatenate([used, rows])
        self._place(rows)

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Take the hashes from rows in use."""
        todo, at = rows, self._home(self._of(rows))
        while todo.size:
            found = self._places[at] == todo
            self._places[at[found]] = _REMOVED
            todo, at = todo[~found], self._next(at[~found])

    def _place(self, rows: NDArray[np.int64]) -> None:
        self._num_free -= len(rows)
        todo, at = rows, self._home(self._of(rows))
        while todo.size:
            is_free = self._places[at] < 0
            # Of several rows that want one place, the last stays.
            self._places[at[is_free]] = todo[is_free]
            is_out = self._places[at] != todo
            todo, at = todo[is_out], self._next(at[is_out])

    def _of(self, rows: NDArray[np.int64]) -> Hashes:
        return Hashes(self.high[rows], self.low[rows])

    def _home(self, of: Hashes) -> NDArray[np.int64]:
        return (of.high & np.uint64(len(self._places) - 1)).astype(np.int64)

    def _next(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return (at + 1) & (len(self._places) - 1)


def _places(capacity: int) -> NDArray[np.int32]:
    """Return empty places: a power of two, at least 1.5 times the rows."""
    return np.full(1 << max((capacity * 3 // 2).bit_length(), 3), _EMPTY, np.int32)
