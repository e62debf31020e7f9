"""Freshness of a version: the time from an impression until servers may load a version that has learned from it.

Only first revisions count: a later one brings the purchases of a list, whose clicks were learned before. The times are
kept by the second, so memory does not grow with the number of lists.

Source: docs/training.md, "Versions".
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

QUANTILES: Final = (0.5, 0.95)


class Freshness:
    """The impressions learned since the version before."""

    def __init__(self) -> None:
        self._num_by_second: Counter[int] = Counter()

    def learned(self, impressions_ts: Iterable[int]) -> None:
        """Count lists that were learned.

        Args:
            impressions_ts: Times of their impressions, epoch milliseconds.
        """
        self._num_by_second.update(ts // 1_000 for ts in impressions_ts)

    def restart(self) -> None:
        """Forget all lists, because a version has learned from them or none was due."""
        self._num_by_second.clear()

    def at(self, now_ms: int) -> Mapping[float, float]:
        """Return the seconds from an impression to now by quantile, at most a second too long; empty without lists.

        >>> freshness = Freshness()
        >>> freshness.learned(ms for ms in range(0, 100_000, 1_000))
        >>> freshness.at(1_000_000)
        {0.5: 950.0, 0.95: 995.0}
        """
        wanted = [(share, math.ceil(share * self._num_by_second.total())) for share in QUANTILES]
        found: dict[float, float] = {}
        num = 0
        for second in sorted(self._num_by_second, reverse=True):
            num += self._num_by_second[second]
            for share, rank in wanted:
                if share not in found and num >= rank:
                    found[share] = now_ms / 1_000 - second
        return found
