"""The report of this process: counts of its answers by version and slice, and the versions that it has in memory.

Requests only add to numbers in memory. The poll thread writes the report.

Source: docs/rollout.md.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping

import msgspec

from serving.metrics import LATENCY_BUCKETS, Metrics
from serving.ranking.context import RankContext
from serving.ranking.rank import BAD_OUTPUTS
from stream.errors import StoreError
from trainer.rollout.reports import AnswerCounts, CountsKey, Report
from trainer.rollout.slices import LIVE

REPORT_S = 2.0
"""Seconds between two reports."""
_EARLY = 0.9
# Bounds as texts, as they stand in the report.
_BOUNDS = (*map(str, LATENCY_BUCKETS), "inf")

_log = logging.getLogger(__name__)


class AnswersByVersion:
    """Counts of the answers of this process, by lineage, version and slice."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counts: dict[CountsKey, AnswerCounts] = {}
        # The event loop adds, the poll thread reads and removes.
        self._lock = threading.Lock()

    def add(self, context: RankContext) -> None:
        """Count a finished request; one that no version could have answered counts for none."""
        lineage, fallback = context.assignment.lineage, context.fallback
        if lineage is None or context.counts_for is None:
            return
        key = CountsKey(lineage, context.counts_for, context.slice or LIVE)
        bound = _BOUNDS[bisect_left(LATENCY_BUCKETS, context.latency_us / 1e6)]
        with self._lock:
            counts = self._counts.get(key)
            if counts is None:
                counts = self._counts[key] = AnswerCounts()
            counts.answered += 1
            counts.scored += context.scores is not None
            counts.latency[bound] = counts.latency.get(bound, 0) + 1
            if fallback is not None:
                counts.fallbacks[fallback] = counts.fallbacks.get(fallback, 0) + 1
                counts.bad += fallback in BAD_OUTPUTS and context.features is not None
            self._metrics.version_requests.labels(lineage, key.version, key.part, fallback or "none").inc()

    def keep(self, versions: Collection[tuple[str, int]]) -> None:
        """Remove the counts of all other versions, so that their number stays bounded."""
        with self._lock:
            gone = [key for key in self._counts if (key.lineage, key.version) not in versions]
            for key in gone:
                del self._counts[key]
            for lineage, version in {(key.lineage, key.version) for key in gone}:
                self._metrics.version_requests.remove_by_labels({"lineage": lineage, "version": str(version)})

    def as_reported(self) -> dict[str, AnswerCounts]:
        """Return a copy of the counts as they stand in a report."""
        with self._lock:
            return {
                key.text: msgspec.structs.replace(
                    counts, fallbacks=dict(counts.fallbacks), latency=dict(counts.latency)
                )
                for key, counts in self._counts.items()
            }


class Reporter:
    """Writer of the reports of this process; a report that cannot be written is left out."""

    def __init__(
        self,
        write: Callable[[Report], None] | None,
        answers: AnswersByVersion,
        *,
        name: str,
        now_ms: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        """Prepare the reports.

        Args:
            write: Write a report; raises StoreError. None writes none.
            answers: The counts.
            name: Host and port, and the number of the worker if there are several.
            now_ms: Epoch milliseconds.
            clock: Monotonic seconds.
        """
        self.answers = answers
        self._write = write
        self.name = name
        self._now_ms = now_ms
        self._clock = clock
        self._due_s = clock()
        self._is_unavailable = False

    def report(self, loaded: Mapping[str, Mapping[str, str]], *, map_sha256: str | None, is_ready: bool) -> None:
        """Write a report, if the last one is old enough.

        Args:
            loaded: Lineage to number of a version to its state.
            map_sha256: SHA-256 of the map in use.
            is_ready: Whether the process answers requests.
        """
        now_s = self._clock()
        if self._write is None or now_s < self._due_s:
            return
        # A poll that comes a little early must not wait for another period.
        self._due_s = now_s + _EARLY * REPORT_S
        report = Report(
            name=self.name,
            seen_ts=self._now_ms(),
            ready=is_ready,
            map_sha256=map_sha256,
            loaded={lineage: dict(states) for lineage, states in loaded.items()},
            counts=self.answers.as_reported(),
        )
        try:
            self._write(report)
            self._is_unavailable = False
        except StoreError as error:
            if not self._is_unavailable:
                _log.warning("the report of this process is not written: %s", error)
            self._is_unavailable = True
