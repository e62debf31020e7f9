"""Ragged rows: the rows of several lists, one list after the other.

Source: docs/training.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of B lists.

    Attributes:
        of: List of each row, ascending.
        place: Place of each row in its list, from 0.
        cuts: First row of each list, then the number of rows.
    """

    of: Ints
    place: Ints
    cuts: list[int]

    @classmethod
    def of_sizes(cls, sizes: Sequence[int] | Ints) -> "Ragged":
        """Return the rows of lists of these sizes.

        >>> Ragged.of_sizes([2, 0, 1])
        Ragged(of=array([0, 0, 2]), place=array([0, 1, 0]), cuts=[0, 2, 2, 3])
        """
        number = np.asarray(sizes, dtype=np.int64)
        cuts = np.zeros(len(number) + 1, np.int64)
        np.cumsum(number, out=cuts[1:])
        of = np.repeat(np.arange(len(number)), number)
        return cls(of, np.arange(len(of)) - cuts[of], cuts.tolist())

    def choose(self, rows: Ints) -> "Ragged":
        """Return the lists with the chosen rows alone; the rows must stand list by list."""
        if len(rows) == len(self.of):
            return self
        return Ragged.of_sizes(np.bincount(self.of[rows], minlength=len(self.cuts) - 1))

    def mask(self) -> NDArray[np.bool_]:
        """Return which places of the lists, padded to the longest one, are real: (B, n)."""
        sizes = np.diff(self.cuts)
        return np.asarray(np.arange(sizes.max(initial=0)) < sizes[:, None])

    def places(self, width: int) -> Ints:
        """Return the place of each row in a table of the lists, each padded to `width` rows."""
        return self.of * width + self.place


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the rows of all parts, one after the other."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
