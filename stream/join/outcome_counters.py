"""Counters of outcomes, reasons and other figures of one partition."""

from collections import defaultdict
from collections.abc import Mapping

from stream.join.labels import MergeResult
from stream.schemas import topics
from stream.schemas.outcomes import DEAD, DUPLICATE, JOINED, OUTCOME_OF_REASON, PRODUCED


class OutcomeCounters:
    """Counts since the start of the topics, by name of an outcome, a reason or another figure.

    Attributes:
        counts: Name to count.
    """

    def __init__(self) -> None:
        self.counts: defaultdict[str, int] = defaultdict(int)

    def restore(self, counts: Mapping[str, int]) -> None:
        """Continue from the counts of a progress row."""
        self.counts.update(counts)

    def add(self, name: str, number: int = 1) -> None:
        """Count `number` units under a name."""
        self.counts[name] += number

    def reset_produced(self, number: int) -> None:
        """Take back the produced units of a record that failed."""
        self.counts[PRODUCED] = number

    def add_merge(self, result: MergeResult) -> bool:
        """Count the unit of a label by the result of its merge, and return whether the unit joined."""
        joined = result is MergeResult.ADDED or result is MergeResult.REPEATED
        self.counts[JOINED if joined else DUPLICATE] += 1
        if result is MergeResult.REPLACED:
            self.counts["conflicts"] += 1
        return joined

    def add_unjoined(self, topic: str, reason: str) -> None:
        """Count a late or orphaned unit."""
        outcome = OUTCOME_OF_REASON[reason]
        self.counts[outcome] += 1
        self.counts[reason] += 1
        if topic == topics.CLICKS:
            self.counts[f"clicks_{outcome}"] += 1

    def add_rejected(self, topic: str, reason: str) -> None:
        """Count a rejected record; of a tick, which is no produced unit, only the reason."""
        self.counts[reason] += 1
        if topic != topics.TICKS:
            self.counts[PRODUCED] += 1
            self.counts[DEAD] += 1
