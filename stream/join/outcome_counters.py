"""Counters of outcomes, reasons and other figures of one partition."""

from collections import defaultdict

from stream.join.labels import MergeResult
from stream.schemas import topics
from stream.schemas.outcomes import DEAD, DUPLICATE, JOINED, OUTCOME_OF_REASON, PRODUCED

MAX_SOURCES = 20
OTHER_SOURCES = "other"
_BY_SOURCE = " of "


def reason_and_source(name: str) -> tuple[str, str] | None:
    """Return the reason and the source of a counter of unjoined units by source, or None for another counter.

    >>> reason_and_source("no_click of web"), reason_and_source("no_click")
    (('no_click', 'web'), None)
    """
    reason, separator, source = name.partition(_BY_SOURCE)
    return (reason, source) if separator else None


class OutcomeCounters(defaultdict[str, int]):
    """Name of an outcome, a reason or another figure to its count since the start of the topics."""

    def __init__(self) -> None:
        super().__init__(int)

    def add_merge(self, result: MergeResult) -> bool:
        """Count the unit of a label by the result of its merge, and return whether the unit joined."""
        joined = result is MergeResult.ADDED or result is MergeResult.REPEATED
        self[JOINED if joined else DUPLICATE] += 1
        if result is MergeResult.REPLACED:
            self["conflicts"] += 1
        return joined

    def add_unjoined(self, topic: str, reason: str, source: str) -> None:
        """Count a late or orphaned unit, also by the program that wrote the event."""
        outcome = OUTCOME_OF_REASON[reason]
        self[outcome] += 1
        self[reason] += 1
        self._add_source(reason, source)
        if topic == topics.CLICKS:
            self[f"clicks_{outcome}"] += 1

    def _add_source(self, reason: str, source: str) -> None:
        name = f"{reason}{_BY_SOURCE}{source}"
        if name not in self:
            known = {found[1] for name in self if (found := reason_and_source(name))}
            if source not in known and len(known) >= MAX_SOURCES:
                name = f"{reason}{_BY_SOURCE}{OTHER_SOURCES}"
        self[name] += 1

    def add_rejected(self, topic: str, reason: str) -> None:
        """Count a rejected record; of a tick, which is no produced unit, only the reason."""
        self[reason] += 1
        if topic != topics.TICKS:
            self[PRODUCED] += 1
            self[DEAD] += 1
