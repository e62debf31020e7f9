"""Sessions and checkpoint boundaries, cut by grids of watermark time, never by the wall clock.

At a checkpoint boundary ids are admitted, the catalogue is applied, a checkpoint may be written, and a version may be
published.

Source: docs/training.md.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stream.schemas.session import Progress, Session
from trainer.feed.merge import Cursor, Key, OrderedRecord

_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class OrderedSession:
    """A session and its key in the merged order."""

    key: Key
    session: Session


@dataclass(frozen=True, slots=True)
class SessionBatch:
    """Sessions between two boundaries in merged order; `held` is parallel and True where a training hold was active."""

    sessions: tuple[OrderedSession, ...]
    held: tuple[bool, ...]


def in_batches(sessions: Sequence[OrderedSession], held: Sequence[bool]) -> Iterator[SessionBatch]:
    """Yield sessions, and whether each was under a training hold, in small batches: work can stop between them."""
    for first in range(0, len(sessions), _AT_ONCE):
        rows = slice(first, first + _AT_ONCE)
        yield SessionBatch(tuple(sessions[rows]), tuple(held[rows]))


@dataclass(frozen=True, slots=True)
class CheckpointBoundary:
    """A line of the checkpoint grid that the watermark has crossed.

    Attributes:
        boundary_ts: The line, in watermark time.
        publish: True if a line of the publish grid was crossed too.
        first: True for the boundary before the first session of the log.
    """

    boundary_ts: int
    publish: bool
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundaries:
    """Grids of boundaries in milliseconds of watermark time."""

    checkpoint_ms: int = 60_000
    publish_ms: int = 300_000

    def __post_init__(self) -> None:
        for name in ("checkpoint_ms", "publish_ms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        if self.publish_ms % self.checkpoint_ms:
            raise ValueError(f"publish_ms = {self.publish_ms}: expected a multiple of {self.checkpoint_ms}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """State of a batcher at a boundary, where it holds no session back.

    Attributes:
        cursors: Partition to its cursor.
        watermark_ts: Watermark of the last record; None before the first.
        boundary_ts: The last boundary; None before the first session of the log.
        holds: Partitions with an active training hold, ascending.
    """

    cursors: Mapping[int, Cursor]
    watermark_ts: int | None = None
    boundary_ts: int | None = None
    holds: tuple[int, ...] = ()


class Batcher:
    """A cutter of the ordered records into sessions and boundaries."""

    def __init__(self, grid: Boundaries, position: Position) -> None:
        self._boundaries = grid
        self._cursors = dict(position.cursors)
        self._watermark_ts = position.watermark_ts
        self._boundary_ts = position.boundary_ts
        self._holds = set(position.holds)
        self._sessions: list[OrderedSession] = []
        self._held: list[bool] = []

    @property
    def position(self) -> Position:
        """The state to continue from. It is complete at boundaries only: elsewhere sessions may be held back."""
        return Position(
            cursors=dict(sorted(self._cursors.items())),
            watermark_ts=self._watermark_ts,
            boundary_ts=self._boundary_ts,
            holds=tuple(sorted(self._holds)),
        )

    def cut(self, released: Iterable[OrderedRecord]) -> Iterator[SessionBatch | CheckpointBoundary]:
        """Yield sessions and boundaries in order; a boundary comes before the record that crosses its line.

        How the sessions between two boundaries are split depends on what was released at once, and carries no meaning.
        """
        for one in released:
            yield from self._cross(one)
            self._take(one)
        yield from self._flush()

    def _cross(self, one: OrderedRecord) -> Iterator[SessionBatch | CheckpointBoundary]:
        grid, now = self._boundaries, one.key.watermark_ts
        line = now // grid.checkpoint_ms * grid.checkpoint_ms
        if self._boundary_ts is None:
            if isinstance(one.record, Session):
                self._boundary_ts = line
                yield CheckpointBoundary(line, publish=False, first=True)
            return
        if line > self._boundary_ts:
            yield from self._flush()
            publish = line // grid.publish_ms != self._boundary_ts // grid.publish_ms
            self._boundary_ts = line
            yield CheckpointBoundary(line, publish=publish)

    def _take(self, one: OrderedRecord) -> None:
        watermark_ts, partition, offset = one.key
        self._watermark_ts = watermark_ts
        self._cursors[partition] = Cursor(next_offset=offset + 1, watermark_ts=watermark_ts)
        if isinstance(one.record, Progress):
            (self._holds.add if one.record.hold else self._holds.discard)(partition)
            return
        self._sessions.append(OrderedSession(one.key, one.record))
        self._held.append(bool(self._holds))

    def _flush(self) -> Iterator[SessionBatch]:
        if self._sessions:
            yield SessionBatch(tuple(self._sessions), tuple(self._held))
            self._sessions, self._held = [], []
