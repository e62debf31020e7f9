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
    # Items last, so that each column is sorted along memory; padding is larger than everything.
    values = np.where(mask_Bn[:, :, None], values_BnF, np.float32(np.inf)).transpose(0, 2, 1).copy()
    order = values.argsort(axis=2)
    ordered = np.take_along_axis(values, order, axis=2)
    place = np.arange(values.shape[2])
    is_first = np.ones(values.shape, dtype=np.bool_)
    is_first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    is_last = np.ones(values.shape, dtype=np.bool_)
    is_last[..., :-1] = is_first[..., 1:]
    first = np.maximum.accumulate(np.where(is_first, place, 0), axis=2)
    last = np.minimum.accumulate(np.where(is_last, place, len(place))[..., ::-1], axis=2)[..., ::-1]
    ranks = np.empty(values.shape, dtype=np.float32)
    np.put_along_axis(ranks, order, ((first + last) / 2 + 1).astype(np.float32), axis=2)
    return ranks.transpose(0, 2, 1)


def relative(items_BnF: Array, mask_Bn: Mask) -> Array:
    """Return min-max position, average rank / n and difference to the mean of each numeric column.

    Shapes: (B, n, len(ITEM_COLUMNS)) to (B, n, 3 x len(NUMERIC_COLUMNS)), three columns per number.
    Guarantees: a flat column gives min-max 0; the order of rows plays no part, and neither does padding.
    """
    values, real = items_BnF[:, :, _NUMERIC], mask_Bn[:, :, None]
    size = mask_Bn.sum(axis=1)[:, None, None]
    padded = np.where(real, values, np.float32(np.inf))
    low = padded.min(axis=1, keepdims=True, initial=np.inf)
    spread = np.where(real, values, np.float32(-np.inf)).max(axis=1, keepdims=True, initial=-np.inf) - low
    minmax = (values - low) / np.where(spread > 0, spread, np.float32(1))
    # The sum is taken over sorted values: float addition depends on the order, and the order of rows must not matter.
    ordered = np.sort(padded, axis=1)
    total = np.where(real, ordered, np.float32(0)).sum(axis=1, keepdims=True)
    centred = values - (total / size).astype(np.float32)
    ranks = (average_ranks(values, mask_Bn) / size).astype(np.float32)
    stacked = np.stack([minmax, ranks, centred], axis=3)
    return stacked.reshape(*mask_Bn.shape, 3 * len(_NUMERIC))


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
