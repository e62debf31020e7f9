"""Ranges of the quarantine that users gave back: the trainer learns each at the next boundary, once.

The checkpoint names the ranges that its weights have learned. A trainer that goes back to a state that has not learned
one learns it again. A row says `trained` only when a checkpoint has learned it.

Source: docs/training.md, "Quarantine".
"""

import logging
from collections.abc import Iterable, Iterator

from stream.errors import ConfigError, StoreError
from trainer.feed.batches import OrderedSession, SessionBatch, in_batches
from trainer.feed.merge import Cursor
from trainer.feed.past_records import PastRecords, in_order
from trainer.guard import Records
from trainer.pauses import until_stored
from trainer.quarantine.ranges import QuarantinedRange, RangeStatus

_log = logging.getLogger(__name__)


class ReleasedRanges:
    """The ranges of one lineage that its trainer has to learn, and those that it has learned.

    Args:
        records: Where the quarantine is.
        past: Source of the sessions of a range.

    Attributes:
        learned: Numbers of the ranges that the weights have learned, in that order.
    """

    def __init__(self, records: Records, past: PastRecords) -> None:
        self._records = records
        self._past = past
        self._unmarked: set[int] = set()
        self.learned: tuple[int, ...] = ()

    def restore(self, learned: Iterable[int]) -> None:
        """Continue from the ranges that a checkpoint names."""
        self.learned = tuple(learned)
        self._unmarked = set(self.learned)

    def due(self, boundary_ts: int) -> list[QuarantinedRange]:
        """Return the ranges to learn, the oldest first; while the database does not answer there are none.

        Args:
            boundary_ts: The boundary: later ranges are not left out yet.
        """
        try:
            ranges = self._records.quarantine.ranges(self._records.lineage)
        except StoreError as error:
            _log.warning("what users gave back is read again at the next boundary: %s", error)
            return []
        return [
            each
            for each in ranges
            if each.status in {"released", "trained"}
            and each.number not in self.learned
            and each.range.until_ts <= boundary_ts
        ]

    def sessions(self, due: QuarantinedRange) -> Iterator[SessionBatch]:
        """Yield the sessions of a range in the merged order, and note that it is learned.

        A range that retention has removed meanwhile has none; its row says `lost`.

        Raises:
            FencedError: If this writer is stale.
            StoreError: If a stop was requested while the database did not answer.
        """
        cursors = {
            int(p): Cursor(next_offset=offset, watermark_ts=watermark_ts)
            for p, (offset, watermark_ts) in due.range.from_cursors.items()
        }
        until = {int(p): offset for p, offset in due.range.until_offsets.items()}
        ordered: list[OrderedSession] = []
        try:
            ordered = in_order(self._past.read({p: each.next_offset for p, each in cursors.items()}, until), cursors)
        except ConfigError as error:
            _log.error("range %d of %s cannot be learned: %s", due.number, due.lineage, error)
            self._mark([due.number], "lost", str(error))
            return
        _log.info("lineage %s learns range %d, %d sessions", due.lineage, due.number, len(ordered))
        yield from in_batches(ordered, [False] * len(ordered))
        self.learned += (due.number,)
        self._unmarked.add(due.number)

    def mark(self) -> None:
        """Record that the ranges are learned, once a checkpoint says so.

        Raises:
            FencedError: If this writer is stale.
            StoreError: If a stop was requested while the database did not answer.
        """
        if self._unmarked:
            self._mark(sorted(self._unmarked), "trained", "learned")
            self._unmarked = set()

    def _mark(self, numbers: list[int], status: RangeStatus, why: str) -> None:
        own = self._records
        until_stored(
            own.pauses,
            lambda: own.quarantine.mark(own.lineage, own.term, numbers, status=status, why=why, now_ms=own.now_ms()),
        )
