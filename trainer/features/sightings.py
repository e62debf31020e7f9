"""Aged counts of sightings: one that lies a half-life back weighs one half, and counts do not rise beyond a limit.

Time is watermark time, so the same log gives the same counts. A count is kept as its value when the id was last seen.

Source: TinyLFU (arXiv 1512.00727), sections 3.2 and 3.3, with aging in time instead of in requests; Cormode et al.
2009, Forward Decay, section III.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

LIMIT: Final = 16.0
"""The count of an id that is seen all the time. Ids that are seen no more reach 1/16 of it after four half-lives."""

Counts = NDArray[np.float32]
Seconds = NDArray[np.uint32]


def aged(counts: Counts, seen_s: Seconds, now_s: int, half_life_s: int) -> NDArray[np.float64]:
    """Return the counts at a later time.

    >>> aged(np.float32([8]), np.uint32([100]), 300, half_life_s=100).tolist()
    [2.0]
    """
    return counts.astype(np.float64) * np.exp2((seen_s.astype(np.float64) - now_s) / half_life_s)


def add(counts: Counts, seen_s: Seconds, sightings: NDArray[np.int64], now_s: int, half_life_s: int) -> Counts:
    """Return the counts after these sightings, as of now."""
    return np.minimum(aged(counts, seen_s, now_s, half_life_s) + sightings, LIMIT).astype(np.float32)


def lowest(counts: NDArray[np.float64], ties: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the places of the lowest counts in ascending order; of equal counts, the lower tie comes first.

    >>> lowest(np.array([3.0, 1.0, 2.0, 1.0]), np.array([0, 9, 2, 3]), 3).tolist()
    [3, 1, 2]
    """
    if not 0 < count < len(counts):
        chosen = np.arange(len(counts) if count > 0 else 0)
    else:
        chosen = np.flatnonzero(counts <= np.partition(counts, count - 1)[count - 1])
    return chosen[np.lexsort((ties[chosen], counts[chosen]))][:count]
