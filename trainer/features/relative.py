"""List-relative numbers: an item's value compared with the other items of its list.

Lists are padded to one length and computed together. Legend: B lists, n items, f columns; masks are True where real.

Source: docs/training.md.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.features.schema import ITEM_COLUMNS, NUMERIC_COLUMNS

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

_NUMERIC: Final = [ITEM_COLUMNS.index(name) for name in NUMERIC_COLUMNS]
_PRICE: Final = ITEM_COLUMNS.index("price")


def average_ranks(values_BnF: Array, mask_Bn: Mask) -> Array:
    """Return the average rank of each item in its column, smallest = 1; what stands at padding means nothing.

    Ties share the mean of their ranks, so that they carry nothing of the order of the rows.

    >>> values = np.array([[[3.0], [1.0], [3.0], [0.0]]], dtype=np.float32)
    >>> average_ranks(values, np.array([[True, True, True, False]]))[0, :3].tolist()
    [[2.5], [1.0], [2.5]]
    """
    _, ranks = _sorted_and_ranked(_columns(values_BnF, mask_Bn))
    return ranks.transpose(0, 2, 1)


def _columns(values_BnF: Array, mask_Bn: Mask) -> Array:
    """Return the columns of the lists, each along memory: (B, F, n); padding is larger than everything."""
    return np.ascontiguousarray(np.where(mask_Bn[:, :, None], values_BnF, np.float32(np.inf)).transpose(0, 2, 1))


def _sorted_and_ranked(columns_BFn: Array) -> tuple[Array, Array]:
    """Return the columns sorted, and the average rank of each value; (B, F, n) both."""
    num_lists, num_columns, num = columns_BFn.shape
    rows = columns_BFn.reshape(num_lists * num_columns, num)
    start = num * np.arange(len(rows))[:, None]
    place = rows.argsort(axis=1) + start
    ordered = rows.ravel()[place]
    is_first = np.ones(rows.shape, dtype=np.bool_)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # Equal values, and what stands before them in all columns: their ranks if all columns were one.
    first = np.flatnonzero(is_first)
    size = np.diff(first, append=rows.size)
    ranks = np.empty(rows.shape)
    ranks.ravel()[place.ravel()] = np.repeat(first + (size + 1) / 2, size)
    ranks -= start
    return ordered.reshape(columns_BFn.shape), ranks.astype(np.float32).reshape(columns_BFn.shape)


def relative(items_BnF: Array, mask_Bn: Mask) -> Array:
    """Return min-max position, average rank / n and difference to the mean of each numeric column.

    Shapes: (B, n, len(ITEM_COLUMNS)) to (B, n, 3 x len(NUMERIC_COLUMNS)), three columns per number.
    Guarantees: a flat column gives min-max 0; the order of rows plays no part, and neither does padding.
    """
    values = _columns(items_BnF[:, :, _NUMERIC], mask_Bn)
    ordered, ranks = _sorted_and_ranked(values)
    size = mask_Bn.sum(axis=1)[:, None, None]
    low = ordered[:, :, :1]
    spread = np.take_along_axis(ordered, size - 1, axis=2) - low
    minmax = (values - low) / np.where(spread > 0, spread, np.float32(1))
    # The sum is taken over sorted values, one after the other: float addition depends on the order, and neither the
    # order of rows nor padding must matter.
    total = np.where(mask_Bn[:, None, :], ordered, np.float32(0)).transpose(2, 0, 1).copy().sum(axis=0)[:, :, None]
    centred = values - (total / size).astype(np.float32)
    stacked = np.stack([minmax, (ranks / size).astype(np.float32), centred], axis=2)
    return stacked.transpose(0, 3, 1, 2).reshape(*mask_Bn.shape, 3 * len(_NUMERIC))


def neighbour_prices(items_BnF: Array, mask_Bn: Mask) -> Array:
    """Return the price minus the one before and the one after, rows in order of `rank_in`; 0 at the ends.

    Shapes: (B, n, len(ITEM_COLUMNS)) to (B, n, 2).
    """
    price = items_BnF[:, :, _PRICE]
    step = np.where(mask_Bn[:, 1:], np.diff(price, axis=1), np.float32(0))
    columns = np.zeros((*mask_Bn.shape, 2), dtype=np.float32)
    columns[:, 1:, 0] = step
    columns[:, :-1, 1] = -step
    return columns
