"""The guard of a trainer: sessions wait until their boundary, where breakers judge them before they are learned.

Sessions between two boundaries are one window. Where a breaker is open, or the log has a training hold, the window is
recorded as a quarantined range and not learned. What follows depends on the log and the settings alone, and the state
is part of the checkpoint.

Source: docs/training.md, "Breakers".
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from trainer.breakers.bands import Finding
from trainer.breakers.breakers import Breakers
from trainer.breakers.measures import measure
from trainer.features import CatalogueLike
from trainer.feed.batches import OrderedSession, Position, SessionBatch, in_batches
from trainer.learning.learner import Learner
from trainer.pauses import Pauses, until_stored
from trainer.quarantine.ranges import LogRange
from trainer.quarantine.store import Quarantine
from trainer.settings import TrainerSettings
from trainer.versions.atomic_folder import Tensors

HOLD: Final = "hold"
"""Name of the breaker of training holds in the log."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The record of ranges, and its writer.

    Attributes:
        quarantine: Store of the ranges.
        lineage: Name of the lineage.
        term: Term of the lease of this writer.
        now_ms: Clock for the times of the rows.
        pauses: Waits while the database does not answer.
    """

    quarantine: Quarantine
    lineage: str
    term: int
    now_ms: Callable[[], int]
    pauses: Pauses


class Guard:
    """The windows of one lineage, and its breakers.

    Args:
        learner: The weights whose loss is measured; counts the sessions that are left out.
        records: Where ranges are recorded.
        settings: Width of the bands.

    Attributes:
        start: Position at the start of the window.
        num_ranges: Ranges that this process left out.
    """

    def __init__(self, learner: Learner, records: Records, settings: TrainerSettings, start: Position) -> None:
        self._learner = learner
        self._records = records
        self._is_on = settings.breakers
        self._breakers = Breakers(settings.breaker_limits())
        self._sessions: list[OrderedSession] = []
        self._held: list[bool] = []
        self._holds = False
        self.start = start
        self.num_ranges = 0

    @property
    def open(self) -> tuple[str, ...]:
        """Names of the open breakers: while there is one, nothing is learned or published."""
        return tuple(name for name, is_open in self.states().items() if is_open)

    def states(self) -> dict[str, bool]:
        """Return whether each breaker is open, by name."""
        return self._breakers.states() | {HOLD: self._holds}

    @property
    def why_not_learning(self) -> str | None:
        """The open breakers, for people; None if there is none."""
        if not self.open:
            return None
        names = ", ".join(self.open)
        return f"open breakers leave sessions out: {names}; shelfwise trainer quarantine list {self._records.lineage}"

    def take(self, batch: SessionBatch) -> None:
        """Add sessions to the window."""
        self._sessions += batch.sessions
        self._held += batch.held

    def judged(self, end: Position, catalogue: CatalogueLike) -> Iterator[SessionBatch]:
        """Judge the window at the boundary at which it ends, and yield its sessions if they are to be learned.

        Raises:
            FencedError: If this writer is stale.
            StoreError: If a stop was requested while the database did not answer.
        """
        sessions, held, start = self._sessions, self._held, self.start
        self._sessions, self._held, self.start = [], [], end
        if self._is_on:
            keeps_out = self._keeps_out(sessions, held, start, end, catalogue)
            if keeps_out and sessions:
                self._leave_out(sessions, held, start, end, keeps_out)
                return
        yield from in_batches(sessions, held)

    def _keeps_out(
        self,
        sessions: list[OrderedSession],
        held: list[bool],
        start: Position,
        end: Position,
        catalogue: CatalogueLike,
    ) -> dict[str, Finding | None]:
        was_open = bool(self.open)
        self._holds = bool(end.holds)
        is_held = self._holds or any(held)
        found: dict[str, Finding | None] = {HOLD: None} if is_held else {}
        if sessions:
            counts = measure(self._learner, [each.session for each in sessions], catalogue)
            from_ts = start.boundary_ts or sessions[0].key.watermark_ts
            found |= self._breakers.judge(counts, from_ts, is_bad=is_held)
        if was_open and not found:
            self._tell_closed(end)
        return found

    def _leave_out(
        self,
        sessions: list[OrderedSession],
        held: list[bool],
        start: Position,
        end: Position,
        keeps_out: Mapping[str, Finding | None],
    ) -> None:
        assert end.boundary_ts is not None, "windows end at boundaries"
        added = LogRange(
            from_ts=start.boundary_ts,
            until_ts=end.boundary_ts,
            from_cursors={str(p): (each.next_offset, each.watermark_ts) for p, each in start.cursors.items()},
            until_offsets={str(p): each.next_offset for p, each in end.cursors.items()},
            reasons=tuple(sorted(keeps_out)),
            numbers={name: _numbers(found) for name, found in keeps_out.items() if found is not None},
            num_sessions=len(sessions),
        )
        own = self._records
        _log.error(
            "lineage %s: %d sessions up to offsets %s are not learned, and nothing is published: %s; see"
            " shelfwise trainer quarantine list %s",
            own.lineage,
            len(sessions),
            dict(added.until_offsets),
            ", ".join(added.reasons),
            own.lineage,
        )
        until_stored(own.pauses, lambda: own.quarantine.add(own.lineage, own.term, added, own.now_ms()))
        self.num_ranges += 1
        self._learner.counters["held"] += sum(held)
        self._learner.counters["breaker"] += len(sessions) - sum(held)

    def accept(self, reasons: Collection[str]) -> None:
        """Close these breakers if they are open: a user gave back a range that they had left out.

        Raises:
            FencedError: If this writer is stale.
            StoreError: If a stop was requested while the database did not answer.
        """
        was_open = bool(self.open)
        self._breakers.close(reasons)
        if was_open:
            self._tell_closed(self.start)

    def _tell_closed(self, end: Position) -> None:
        """Record that training goes on, unless another breaker is open."""
        if self.open:
            return
        assert end.boundary_ts is not None, "windows end at boundaries"
        boundary_ts, own = end.boundary_ts, self._records
        until_stored(own.pauses, lambda: own.quarantine.close(own.lineage, own.term, boundary_ts, own.now_ms()))
        _log.info("lineage %s: no breaker is open, training goes on", own.lineage)

    def to_files(self) -> dict[str, Tensors]:
        """Return the arrays of a checkpoint, which is written at a boundary, where no session waits."""
        return self._breakers.to_files()

    def restore(self, files: Mapping[str, Tensors], start: Position) -> None:
        """Continue from the files of a checkpoint and its position."""
        self._breakers.restore(files)
        self._holds = bool(start.holds)
        self.start = start


def _numbers(found: Finding) -> dict[str, float | None]:
    """Return the numbers as a database can hold them: None for those that are not finite."""
    return {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}
