"""Freshness of the versions of a demo: seconds from a mature session to the first version that has learned from it.

A session counts from the time at which the join appended it to the log, when its click window had closed. The time of
the shop runs faster than the clock and has no part in it. Sessions before the first version are left out: that one
waits until shuffled lists speak for it.

Source: docs/training.md, "Versions".
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np

from deploy.demo.summary import FreshnessSummary
from trainer.versions.registry import Version


class AppendTimes:
    """Times at which the records of a topic were appended, by partition."""

    def __init__(self) -> None:
        self._offsets: dict[int, list[int]] = {}
        self._times: dict[int, list[int]] = {}

    def add(self, partition: int, offset: int, time_ms: int) -> None:
        """Take a record, in order of its partition."""
        self._offsets.setdefault(partition, []).append(offset)
        self._times.setdefault(partition, []).append(time_ms)

    def between(self, partition: int, start: int, end: int) -> list[int]:
        """Return the times of the records from `start` up to before `end`."""
        offsets = self._offsets.get(partition, [])
        first, last = (bisect_left(offsets, offset) for offset in (start, end))
        return self._times.get(partition, [])[first:last]


def freshness_of(versions: Iterable[Version], sessions: AppendTimes) -> FreshnessSummary | None:
    """Return the freshness of the versions of one lineage; None if no session was learned after its first version.

    Args:
        versions: The versions in the order of their numbers, with the offsets up to which they have learned.
        sessions: Append times of the topic `sessions`.
    """
    lags_ms: list[int] = []
    reached: dict[int, int] | None = None
    for version in versions:
        offsets = {int(partition): offset for partition, offset in version.offsets.items()}
        if reached is None:
            reached = offsets
            continue
        for partition, end in offsets.items():
            start = reached.get(partition, 0)
            lags_ms += [version.published_ts - time for time in sessions.between(partition, start, end)]
            reached[partition] = max(start, end)
    return _summary(lags_ms)


def _summary(lags_ms: Sequence[int]) -> FreshnessSummary | None:
    if not lags_ms:
        return None
    p50, p95 = np.quantile(np.array(lags_ms) / 1_000, [0.5, 0.95], method="higher")
    return FreshnessSummary(sessions=len(lags_ms), p50_s=round(float(p50), 1), p95_s=round(float(p95), 1))
