"""List-relative numbers: an item's value compared with the other items of its list.

Source: docs/training.md.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.features.schema import ITEM_COLUMNS, NUMERIC_COLUMNS

Array = NDArray[np.float32]

_NUMERIC: Final = [ITEM_COLUMNS.index(name) for name in NUMERIC_COLUMNS]
_PRICE: Final = ITEM_COLUMNS.index("price")


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
