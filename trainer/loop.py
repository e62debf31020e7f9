"""The trainer's loop as named steps: merge, cut, learn; at marks admit, apply items, write, publish.

Nothing here reads Kafka, a clock or the environment: records are pushed in, items come from a feed, versions go to a
publisher, and the crash tests drive it with lists.

Source: TRAINING_SERVING.md 2, 2.1, 2.2.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from stream.errors import ArtifactError, FencedError, SchemaError, StoreError
from stream.replicas.catalogue import Catalogue
from stream.schemas import session
from trainer.features import FEATURE_SCHEMA
from trainer.feed.batches import Batch, Cutter, Mark, Position
from trainer.feed.merge import Cursor, Merge
from trainer.learning import learner
from trainer.learning.learner import Learner
from trainer.learning.prequential import Prequential
from trainer.models import architecture_hash, encode_config
from trainer.versions import artifact, atomic_folder, checkpoint
from trainer.versions.atomic_folder import Failpoint
from trainer.versions.checkpoint import Checkpoint, CursorState, State
from trainer.versions.publisher import Publisher

_log = logging.getLogger(__name__)


class SessionRecord(Protocol):
    """A record of the topic `sessions`."""

    @property
    def partition(self) -> int:
        """Partition number."""

    @property
    def offset(self) -> int:
        """Offset in the partition."""

    @property
    def value(self) -> bytes | None:
        """Raw value."""


class ItemFeed(Protocol):
    """Brings a catalogue forward."""

    def advance(self, catalogue: Catalogue, until_ts: int) -> None:
        """Apply the items with `updated_ts` up to a time, in log order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a trainer trains: fixed for the life of the lineage."""

    name: str
    model: str
    profile: str
    seed: int
    code_version: str


@dataclass(slots=True, kw_only=True)
class Progress:
    """What the loop has done, for metrics.

    Attributes:
        prequential: Means over the sessions between the two newest versions.
        losses: Of the newest batch.
        checkpoint_at: Monotonic seconds of the newest checkpoint of this process.
    """

    num_trained: int = 0
    num_batches: int = 0
    num_marks: int = 0
    num_published: int = 0
    num_undecodable: int = 0
    version: int = 0
    watermark_ts: int | None = None
    prequential: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    checkpoint_at: float | None = None


class Loop:
    """Runs one lineage over pushed records.

    Args:
        lineage: What is trained.
        learner: Fresh; `start` restores it.
        partitions: First offset of every partition of `sessions`, used when there is no checkpoint.
        feed: Where items come from.
        publisher: Where versions go.
        folder: Where checkpoints lie.
        wall_s: Monotonic clock; it only spaces checkpoints that no version needs, never what is learned.
        failpoint: Called with the name of each step, for crash tests.
        stop: Asked between elements; True ends the run without a further write.
        retry: Asked when the registry cannot be reached; True tries again, so training pauses meanwhile.
    """

    def __init__(
        self,
        lineage: Lineage,
        learner: Learner,
        partitions: Mapping[int, int],
        feed: ItemFeed,
        publisher: Publisher,
        folder: Path,
        *,
        wall_s: Callable[[], float],
        failpoint: Failpoint = atomic_folder.no_failpoint,
        stop: Callable[[], bool] = lambda: False,
        retry: Callable[[StoreError], bool] = lambda _: False,
    ) -> None:
        self._lineage = lineage
        self.learner = learner
        self._feed = feed
        self._publisher = publisher
        self._folder = folder
        self._wall_s = wall_s
        self._failpoint = failpoint
        self._stop = stop
        self._retry = retry
        self.catalogue = Catalogue()
        self.progress = Progress()
        self._architecture = architecture_hash(lineage.model, learner.config)
        self._mark_number = 0
        self._version = 0
        self._artifact: str | None = None
        self._published_batch = 0
        self._previous_mark_ts: int | None = None
        self._start_at(Position(cursors={number: Cursor(next_offset=first) for number, first in partitions.items()}))

    def _start_at(self, position: Position) -> None:
        self._cutter = Cutter(self.learner.settings.grid(), position)
        self.merge = Merge(position.cursors)
        self._previous_mark_ts = position.marked_ts
        self.progress.watermark_ts = position.watermark_ts

    def start(self) -> dict[int, int]:
        """Restore the newest checkpoint, finish its publication, and return where to read each partition from.

        Raises:
            ArtifactError: If no checkpoint verifies, or it belongs to another lineage, model or feature schema.
        """
        found = checkpoint.newest(self._folder)
        if found is None:
            self._version = self._publisher.newest_number()
        else:
            self._restore(found)
            if self._artifact is not None:
                self._register(self._artifact)
        self.progress.version = self._version
        return {number: cursor.next_offset for number, cursor in self._cutter.position.cursors.items()}

    def _restore(self, found: Checkpoint) -> None:
        state = found.state
        identity = (state.lineage, state.architecture, state.feature_schema)
        expected = (self._lineage.name, self._architecture, FEATURE_SCHEMA)
        if identity != expected:
            raise ArtifactError(f"checkpoint of {identity}, this trainer is {expected}")
        if state.environment != learner.environment():
            _log.warning(
                "resumed weights may differ in last bits: %s then, %s now", state.environment, learner.environment()
            )
        self.learner.restore(found.files)
        self.learner.counters.update(state.counters)
        self.learner.batch_number = state.batch_number
        self.learner.rejected_in_row = state.rejected_in_row
        self.learner.prequential = Prequential(state.prequential)
        self._mark_number = state.mark_number
        self._version = state.version
        self._artifact = state.artifact
        self._published_batch = state.published_batch
        cursors = {
            int(number): Cursor(next_offset=cursor.next_offset, watermark_ts=cursor.watermark_ts)
            for number, cursor in state.cursors.items()
        }
        self._start_at(
            Position(
                cursors=cursors,
                watermark_ts=state.watermark_ts,
                marked_ts=state.marked_ts,
                holds=tuple(state.holds),
            )
        )
        self.catalogue = Catalogue(image_space=state.image_space, text_space=state.text_space)
        if state.marked_ts is not None:
            self._apply_items(state.marked_ts, first=state.mark_number == 1)

    def push(self, records: Iterable[SessionRecord]) -> None:
        """Take in records of one poll and work off all that they complete.

        Raises:
            LearningHalted: If too many batches in a row were refused.
            FencedError: If this writer is stale.
        """
        for record in records:
            try:
                decoded = session.decode(record.value or b"")
            except SchemaError as error:
                _log.warning("sessions-%d offset %d skipped: %s", record.partition, record.offset, error)
                self.progress.num_undecodable += 1
                self.merge.skip(record.partition, record.offset)
                continue
            self.merge.push(record.partition, record.offset, decoded)
        for element in self._cutter.cut(self.merge.release()):
            if self._stop():
                return
            if isinstance(element, Batch):
                self._on_batch(element)
            else:
                self._on_mark(element)
        self.progress.watermark_ts = self._cutter.position.watermark_ts

    def _on_batch(self, batch: Batch) -> None:
        step = self.learner.learn(batch, self.catalogue)
        self.progress.num_batches += 1
        self.progress.num_trained += step.num_trained
        self.progress.losses = step.losses or self.progress.losses

    def _on_mark(self, mark: Mark) -> None:
        self.learner.mark(mark.mark_ts, self._previous_mark_ts)
        self._previous_mark_ts = mark.mark_ts
        self._mark_number += 1
        self.progress.num_marks += 1
        self._apply_items(mark.mark_ts, first=mark.first)
        publishes = (
            mark.publish and self.learner.golden is not None and self.learner.batch_number > self._published_batch
        )
        if publishes:
            self._artifact = self._write_version(mark)
            self._version += 1
            self._published_batch = self.learner.batch_number
            self.progress.prequential = self.learner.prequential.means()
            self.learner.prequential = Prequential()
        if publishes or self._is_due():
            checkpoint.save(
                self._folder,
                self._state(mark.mark_ts),
                self.learner.to_files(),
                lambda name: self._failpoint(f"checkpoint.{name}"),
                self.learner.settings.keep_checkpoints,
            )
            self.progress.checkpoint_at = self._wall_s()
        if publishes:
            assert self._artifact is not None
            self._register(self._artifact)
            self.progress.num_published += 1
            self.progress.version = self._version

    def _register(self, sha256: str) -> None:
        while True:
            try:
                self._publisher.register(sha256)
            except FencedError:
                raise
            except StoreError as error:
                if not self._retry(error):
                    raise
            else:
                return

    def _apply_items(self, mark_ts: int, *, first: bool) -> None:
        delay = self.learner.settings.catalogue_delay_s * 1000
        self._feed.advance(self.catalogue, mark_ts if first else mark_ts - delay)

    def _is_due(self) -> bool:
        at, every = self.progress.checkpoint_at, self.learner.settings.checkpoint_every_wall_s
        return at is None or self._wall_s() - at >= every

    def _write_version(self, mark: Mark) -> str:
        own = self.learner
        assert own.golden is not None, "checked by the caller"
        manifest = artifact.Manifest(
            lineage=self._lineage.name,
            version=self._version + 1,
            parent=self._artifact,
            term=self._publisher.term,
            model=own.model,
            profile=self._lineage.profile,
            config=encode_config(own.config),
            architecture=self._architecture,
            feature_schema=FEATURE_SCHEMA,
            image_space=self.catalogue.image_space,
            text_space=self.catalogue.text_space,
            cursors=self._cursors(),
            marked_ts=mark.mark_ts,
            metrics={f"prequential_{name}": value for name, value in own.prequential.means().items()},
            capacities=dict(own.capacities),
            num_sessions=own.counters["trained"],
            code_version=self._lineage.code_version,
        )
        return artifact.publish(
            self._publisher.folder,
            manifest,
            own.params,
            own.id_maps,
            own.golden,
            rows_dtype=torch.float16 if own.settings.rows_dtype == "float16" else torch.float32,
            failpoint=lambda name: self._failpoint(f"artifact.{name}"),
        )

    def _cursors(self) -> dict[str, CursorState]:
        cursors = sorted(self._cutter.position.cursors.items())
        return {str(n): CursorState(cursor.next_offset, cursor.watermark_ts) for n, cursor in cursors}

    def _state(self, mark_ts: int) -> State:
        position = self._cutter.position
        return State(
            lineage=self._lineage.name,
            term=self._publisher.term,
            architecture=self._architecture,
            feature_schema=FEATURE_SCHEMA,
            seed=self._lineage.seed,
            cursors=self._cursors(),
            watermark_ts=position.watermark_ts,
            marked_ts=mark_ts,
            holds=list(position.holds),
            batch_number=self.learner.batch_number,
            mark_number=self._mark_number,
            version=self._version,
            artifact=self._artifact,
            published_batch=self._published_batch,
            rejected_in_row=self.learner.rejected_in_row,
            image_space=self.catalogue.image_space,
            text_space=self.catalogue.text_space,
            counters=dict(self.learner.counters),
            prequential=dict(self.learner.prequential.sums),
            environment=learner.environment(),
        )
