"""Lists of shoppers with a known curve: a click is examination of the position times attractiveness of the item."""

import numpy as np
from numpy.typing import NDArray

from trainer.examination.observations import Observations

THETA = np.array([1.0, 0.6, 0.4, 0.3, 0.22, 0.18])


def drawn(seed: int, num_lists: int, *, swap_share: float | None = None, reach: int = 6) -> Observations:
    """Return rows of shuffled lists, or of lists of which a share had one pair of places exchanged."""
    rng = np.random.default_rng(seed)
    n = len(THETA)
    if swap_share is None:
        before = rng.permuted(np.tile(np.arange(n), (num_lists, 1)), axis=1)
    else:
        before = np.tile(np.arange(n), (num_lists, 1))
        pairs = [(i, j) for i in range(n) for j in range(i + 1, min(n, i + reach + 1))]
        for row in np.flatnonzero(rng.random(num_lists) < swap_share):
            i, j = pairs[rng.integers(len(pairs))]
            before[row, [i, j]] = j, i
    # The ranker puts the better items first, and every list has some luck of its own.
    appeal = np.linspace(0.3, 0.05, n)[before] * rng.uniform(0.6, 1.4, (num_lists, 1))
    clicked = rng.random((num_lists, n)) < THETA * appeal
    return rows(before, clicked)


def rows(stratum: NDArray[np.int64], clicked: NDArray[np.bool_]) -> Observations:
    """Return the rows of lists, each a visit of its own; one row of arguments is a list in the order shown."""
    num_lists, n = stratum.shape
    return Observations(
        position=np.tile(np.arange(1, n + 1), num_lists),
        stratum=stratum.ravel(),
        is_clicked=clicked.ravel(),
        unit=np.repeat(np.arange(num_lists), n),
        num_lists=num_lists,
        left_out={},
    )
