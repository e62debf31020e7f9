"""Counts every unit once and writes the letters of those that did not join.

Source: STREAM.md 7 and 9.
"""

from collections import defaultdict

from stream.join.labels import Merge
from stream.join.output import MicroBatchOutput
from stream.join.rows import Source
from stream.schemas import dead_letter, outcomes, topics
from stream.schemas.outcomes import OUTCOME_OF_REASON
from stream.schemas.records import Record


class Ledger:
    """Counters since the topics began, and the effects of the slice in hand.

    Attributes:
        counters: Fate, reason or other name to count.
        effects: What the slice has said so far.
    """

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self.counters: defaultdict[str, int] = defaultdict(int)
        self.effects = MicroBatchOutput()

    def count_merge(self, verdict: Merge) -> bool:
        """Count a merged unit by its verdict and return whether it joined."""
        joined = verdict is Merge.ADDED or verdict is Merge.REPEATED
        self.counters[outcomes.JOINED if joined else outcomes.DUPLICATE] += 1
        if verdict is Merge.REPLACED:
            self.counters["conflicts"] += 1
        return joined

    def divert(
        self, topic: str, client_id: str, source: Source, reason: str, detail: str, *, line_id: str | None = None
    ) -> None:
        """Send a record, or one order line of it, to `unjoined`."""
        fate = OUTCOME_OF_REASON[reason]
        self.counters[fate] += 1
        self.counters[reason] += 1
        if topic == topics.CLICKS:
            self.counters[f"clicks_{fate}"] += 1
        letter = dead_letter.unjoined(
            client_id,
            source.raw,
            topic=topic,
            partition=self._partition,
            offset=source.offset,
            append_ts=source.append_ts,
            reason=reason,
            detail=detail,
            line_id=line_id,
        )
        self.effects.unjoined.append(letter)

    def bury(self, record: Record, reason: str, detail: str) -> None:
        """Send a record to `dead_letters`; a tick is buried without being counted."""
        self.effects.dead_letters.append(dead_letter.rejected(record, reason, detail))
        self.counters[reason] += 1
        if record.topic != topics.TICKS:
            self.counters[outcomes.PRODUCED] += 1
            self.counters[outcomes.DEAD] += 1
