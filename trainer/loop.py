"""The trainer's loop: order the records, cut batches, learn; at checkpoint boundaries admit ids, apply items, publish.

The loop reads no Kafka, no clock and no environment: records are pushed in, items come from a feed, and versions go to
a publisher. Crash tests therefore drive it with lists.

Source: docs/training.md.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from stream.backoff import Backoff
from stream.errors import ArtifactError, ConfigError, SchemaError, StoreError
from stream.failpoints import Failpoint, no_failpoint
from stream.replicas.catalogue import Catalogue
from stream.schemas import session
from stream.schemas.session import UnlinkedLine
from trainer.features import SCHEMAS
from trainer.feed.batches import Batcher, CheckpointBoundary, Position, SessionBatch
from trainer.feed.items import ItemFeed
from trainer.feed.merge import Cursor, WatermarkMerge
from trainer.feed.past_records import PastRecords, RawRecord
from trainer.freshness import Freshness
from trainer.gate_evidence import GateEvidence
from trainer.graded_pages import GradedPages, passed_until
from trainer.guard import Guard, Records
from trainer.learning import drill
from trainer.learning.determinism import environment
from trainer.learning.former import FormerVersion
from trainer.learning.learner import Learner
from trainer.learning.prequential import Prequential
from trainer.learning.training_lists import TrainingLists
from trainer.lineage import Lineage, adoptions
from trainer.pauses import Pauses, until_stored
from trainer.progress import Progress
from trainer.quarantine.store import Quarantine
from trainer.released import ReleasedRanges
from trainer.settings import TrainerSettings
from trainer.version_writer import VersionWriter
from trainer.versions import artifact, checkpoint, rewind
from trainer.versions.atomic_folder import WriteError
from trainer.versions.checkpoint import Adoption, Base, Checkpoint, Origin, Published, SkippedRange, State
from trainer.versions.publisher import Publisher
from trainer.versions.registry import Rewind

_log = logging.getLogger(__name__)


class Loop:
    """The training of one lineage over pushed records.

    Args:
        lineage: Identity of the lineage.
        learner: A fresh learner; `start` restores it.
        partitions: First offset of every partition of `sessions`, used when there is no checkpoint.
        feed: Source of items.
        publisher: Destination of versions.
        quarantine: Where ranges are recorded that breakers keep from being learned.
        past: Source of the sessions of ranges that users give back.
        graded: Pages that people graded; None if the model learns no grades.
        folder: Folder of the checkpoints.
        settings: Settings of the process.
        adopt: Whether learning settings may differ from those of the checkpoint, and id tables may be larger.
        origin: Version that the lineage starts from if it has no checkpoint; None for fresh weights.
        pauses: Clock and waits of retries.
        failpoint: Called with the name of each step, for crash tests.
        before_step: Called before each batch and boundary; renews the lease.
        is_stopping: Asked before each batch and boundary; True ends the run without a further write.
    """

    def __init__(
        self,
        lineage: Lineage,
        learner: Learner,
        *,
        partitions: Mapping[int, int],
        feed: ItemFeed,
        publisher: Publisher,
        quarantine: Quarantine,
        past: PastRecords,
        folder: Path,
        settings: TrainerSettings,
        graded: GradedPages | None = None,
        adopt: bool = False,
        origin: Origin | None = None,
        pauses: Pauses,
        failpoint: Failpoint = no_failpoint,
        before_step: Callable[[], None] = lambda: None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lineage = lineage
        self.learner = learner
        learner.lineage = lineage.name
        self.feed = feed
        self.graded = graded
        self._publisher = publisher
        self._folder = folder
        self._settings = settings
        self._adopt = adopt
        self._origin = origin
        self._adopted: tuple[Adoption, ...] = ()
        self._skipped: tuple[SkippedRange, ...] = ()
        self._boundaries = settings.boundaries(lineage.learning)
        self._gate_evidence = GateEvidence(publisher, learner, settings)
        self._writer = VersionWriter(
            lineage, learner, publisher, evidence=self._gate_evidence, settings=settings, failpoint=failpoint
        )
        self._pauses = pauses
        self._failpoint = failpoint
        self._before_step = before_step
        self._is_stopping = is_stopping
        self.catalogue = Catalogue()
        self.progress = Progress()
        self._freshness = Freshness()
        self._boundary_number = 0
        self._published = Published()
        self._base: Base | None = None
        self._publication_due = False
        self._write_backoff = Backoff(random=pauses.random)
        self._next_write_at: float | None = None
        self._previous_boundary_ts: int | None = None
        start = Position(cursors={number: Cursor(next_offset=first) for number, first in partitions.items()})
        records = Records(
            quarantine=quarantine,
            lineage=lineage.name,
            term=publisher.term,
            now_ms=publisher.now_ms,
            pauses=pauses,
        )
        self.guard = Guard(learner, records, settings, start)
        self._released = ReleasedRanges(records, past)
        self._start_at(start)

    def _start_at(self, position: Position) -> None:
        self._batcher = Batcher(self._boundaries, position)
        self.merge = WatermarkMerge(position.cursors)
        self._previous_boundary_ts = position.boundary_ts
        self.progress.watermark_ts = position.watermark_ts

    def start(self) -> dict[int, int]:
        """Restore a checkpoint and return the next offset of each partition.

        It is the newest one, whose publication is finished, or after a rollback that of the last good version.

        Raises:
            ArtifactError: If no checkpoint verifies, or it belongs to another lineage, model or feature schema, or the
                version to start from does not verify.
            ConfigError: If the settings of the model differ from the checkpoint's, or those of learning do and are not
                to be adopted, the version of the checkpoint was rolled back, or the state that a rollback demands is
                missing.
        """
        demand = self._publisher.rewind()
        if demand is None:
            self._resume()
        else:
            self._go_back(demand)
        self.progress.version = self._published.version
        return {number: cursor.next_offset for number, cursor in self._batcher.position.cursors.items()}

    def _resume(self) -> None:
        found = checkpoint.newest(self._folder)
        if found is None:
            self._published = Published(version=self._publisher.newest_number())
            self._gate_evidence.begin()
            if self._origin is not None:
                self._warm_start(self._origin)
            return
        self._restore(found)
        newest = self._published.artifact
        if newest is not None:
            if not self._register(newest):
                # What refused it may be its base.
                self._published = msgspec.structs.replace(self._published, base=None)
            self._publisher.check_trusted(newest, self._folder)
            self._load_former(newest)

    def _go_back(self, demand: Rewind) -> None:
        """Take the state that a rollback demands. The next version clears the demand, so that a crash repeats this."""
        if demand.mode == "wait":
            raise ConfigError(f"lineage {self._lineage.name} waits after a rollback to version {demand.to}")
        versions = self._publisher.versions()
        found = rewind.find_state(demand, self._lineage.name, versions, self._folder, self._origin)
        self._origin = None
        if isinstance(found, Checkpoint):
            self._restore(found)
            if self._published.artifact is not None:
                self._load_former(self._published.artifact)
        else:
            self._gate_evidence.begin()
        if isinstance(found, Origin):
            self._origin = found
            self._warm_start(found)
        self._published = msgspec.structs.replace(self._published, version=self._publisher.newest_number())
        position = self._batcher.position
        skipped = None
        if demand.mode == "skip":
            skipped = rewind.skipped_range(demand, versions, self._publisher.folder, position)
        if skipped is not None:
            self._skipped += (skipped,)
            self.learner.leave_out(skipped.until_ts)
        self._failpoint("rewind.before_event")
        self._publisher.record_rewound(demand, rewind.evidence(demand, self._published.artifact, position, skipped))
        self._failpoint("rewind.after_event")
        # A fresh start counts its boundaries from 1; otherwise later checkpoints come after all that stay.
        kept = checkpoint.clean(self._folder, self._publisher.recoverable() if isinstance(found, Checkpoint) else ())
        self._boundary_number = max(self._boundary_number, kept)
        self._failpoint("rewind.after_removal")
        _log.info("lineage %s goes back to version %d: %s", self._lineage.name, demand.to, demand.mode)

    def _warm_start(self, origin: Origin) -> None:
        version = artifact.load(self._publisher.folder, origin.artifact, keys=self._publisher.keys)
        self.learner.warm_start(version)
        self.catalogue = Catalogue(image_space=version.manifest.image_space, text_space=version.manifest.text_space)
        _log.info("lineage %s starts from version %s", self._lineage.name, origin)

    def _restore(self, found: Checkpoint) -> None:
        state = found.state
        identity, expected = (state.lineage, state.model), (self._lineage.name, self._lineage.model)
        if identity != expected:
            raise ArtifactError(f"checkpoint of {identity}, this trainer is {expected}")
        self._adopted = state.adopted + adoptions(self._lineage, state, adopt=self._adopt)
        if state.environment != environment():
            _log.warning("resumed weights may differ in last bits: %s then, %s now", state.environment, environment())
        self.learner.restore(found.files, state.learning, state.position.boundary_ts or 0)
        self._gate_evidence.restore(found.files)
        self.guard.restore(found.files, state.position)
        self._released.restore(state.learned_ranges)
        self._origin = state.origin
        if state.origin is not None:
            self.learner.pass_over(state.origin.boundary_ts)
        # A range that is left out lies before the first version since, and so before each position that is resumed.
        self._skipped = state.skipped
        self._base = found.base
        self._boundary_number = state.boundary_number
        self._published = state.published
        self._start_at(state.position)
        self.catalogue = Catalogue(image_space=state.image_space, text_space=state.text_space)
        if state.position.boundary_ts is not None:
            self._apply_items(state.position.boundary_ts, first=state.boundary_number == 1)

    def push(self, records: Iterable[RawRecord]) -> None:
        """Take in the records of one poll and process everything that they complete.

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
            if isinstance(decoded, UnlinkedLine):
                self.merge.skip(record.partition, record.offset)
                continue
            self.merge.push(record.partition, record.offset, decoded)
        for element in self._batcher.cut(self.merge.release()):
            self._before_step()
            if self._is_stopping():
                return
            if isinstance(element, SessionBatch):
                self.guard.take(element)
            elif not self._on_boundary(element):
                return
        self.progress.watermark_ts = self._batcher.position.watermark_ts

    def _learn(self, batch: SessionBatch) -> None:
        is_drill = self._published.version + 1 == self._gate_evidence.drill_version
        step = self.learner.learn(drill.flipped(batch) if is_drill else batch, self.catalogue)
        self.progress.num_trained += step.num_trained
        self.progress.losses = step.losses or self.progress.losses
        self._freshness.learned(step.impressions_ts)

    def _on_boundary(self, boundary: CheckpointBoundary) -> bool:
        """Learn the sessions up to a boundary, unless breakers leave them out; return False if a stop comes first."""
        for batch in self._sessions(boundary):
            self._before_step()
            if self._is_stopping():
                return False
            self._learn(batch)
        self.learner.at_boundary(boundary.boundary_ts, self._previous_boundary_ts)
        self._boundary_number += 1
        self.progress.num_boundaries += 1
        self._apply_items(boundary.boundary_ts, first=boundary.first)
        for lists in self._graded_lists(boundary):
            self._before_step()
            if self._is_stopping():
                return False
            self.learner.train(lists)
        self._previous_boundary_ts = boundary.boundary_ts
        self._publication_due |= boundary.publish
        has_learned = self.learner.golden is not None and self.learner.batch_number > self._published.batch_number
        publishes = self._publication_due and has_learned and not self.guard.open
        if publishes and self._is_held_back():
            self.progress.num_held_back += 1
            publishes = False
        if boundary.publish:
            # Before the checkpoint is written, so that a resumed run ages at the same lines.
            self.learner.shuffled.age(self._settings.hold_lists)
            if not publishes:
                self._freshness.restart()
        if not publishes:
            self._publication_due = False
        if (publishes or self._is_checkpoint_due()) and self._may_write():
            self._write(publishes=publishes)
        return True

    def _sessions(self, boundary: CheckpointBoundary) -> Iterator[SessionBatch]:
        """Yield what is learned at a boundary: its window, unless breakers leave it out, and what users gave back."""
        yield from self.guard.judged(self._batcher.position, self.catalogue)
        for due in self._released.due(boundary.boundary_ts):
            yield from self._released.sessions(due)
            self.guard.accept(due.range.reasons)

    def _graded_lists(self, boundary: CheckpointBoundary) -> Iterable[TrainingLists]:
        """Return the pages that were graded up to a boundary and are still to learn."""
        if self.graded is None:
            return ()
        since_ts = passed_until(self._previous_boundary_ts, self._origin, self._skipped)
        return self.graded.lists(since_ts, boundary.boundary_ts, self.catalogue)

    def _is_held_back(self) -> bool:
        """Return whether the first version of these weights must wait for evidence."""
        wanted, evidence = self._settings.hold_lists, self.learner.shuffled
        # One good number may be luck: about half of the weights that are no better have one.
        is_ahead = evidence.was_ahead and evidence.is_ahead(wanted)
        return self._published.artifact is None and wanted > 0 and not is_ahead

    def _write(self, *, publishes: bool) -> None:
        """Write the version, if one is due, and a checkpoint; register the version once both are on disk."""
        before = self._published
        try:
            if publishes:
                position = self._batcher.position
                self._published = self._writer.write(
                    before, self.catalogue, position, adopted=self._adopted, origin=self._origin
                )
            base = self._base_of_delta()
            self._base = checkpoint.save(
                self._folder,
                self._state(publishes=publishes),
                self.learner.to_files(None if base is None else (base.boundary_ts or 0) // 1000)
                | self.guard.to_files(),
                lambda name: self._failpoint(f"checkpoint.{name}"),
                keep=self._settings.keep_checkpoints,
                base=base,
                needed=self._recoverable(),
            )
        except WriteError as error:
            # Learning goes on; what was due is written with the weights of a later boundary.
            self._published = before
            delay_s = self._write_backoff.next_s()
            self._next_write_at = self._pauses.monotonic_s() + delay_s
            self.progress.num_failed_writes += 1
            _log.error("not written, next attempt at the first boundary after %.1f s: %s", delay_s, error)
            return
        self._write_backoff.reset()
        self._next_write_at = None
        self.progress.checkpoint_at = self._pauses.monotonic_s()
        self._released.mark()
        if publishes:
            self._publication_due = False
            self.progress.prequential = self.learner.prequential.means()
            self.learner.restart_prequential()
            assert self._published.artifact is not None
            if self._register(self._published.artifact):
                self.progress.freshness = self._freshness.at(self._publisher.now_ms())
            self._freshness.restart()
            self._load_former(self._published.artifact)
            self.progress.num_published += 1
            self.progress.version = self._published.version
            self.progress.version_bytes = artifact.size(self._publisher.folder, self._published.artifact)

    def _recoverable(self) -> set[str] | None:
        """Return the versions whose checkpoints stay; None while the database does not say."""
        try:
            return self._publisher.recoverable()
        except StoreError as error:
            _log.warning("no checkpoint of %s is removed: %s", self._lineage.name, error)
            return None

    def _base_of_delta(self) -> Base | None:
        """Return the full checkpoint that the next one may leave rows to; None if it must be full itself."""
        base = self._base
        if base is None or base.num_deltas >= self._settings.deltas_per_base or not (self._folder / base.name).is_dir():
            return None
        return base

    def _register(self, sha256: str) -> bool:
        """Register a version, as often as the database needs it, and return whether it verified."""
        return until_stored(self._pauses, lambda: self._publisher.register(sha256))

    def _load_former(self, newest: str) -> None:
        """Give the learner the version before the newest one."""
        held = () if self.learner.former is None else (self.learner.former.version,)
        self.learner.former = None
        self.learner.former = FormerVersion.before(newest, self._publisher.folder, held, self.learner.device)

    def _apply_items(self, boundary_ts: int, *, first: bool) -> None:
        delay = self._lineage.learning.catalogue_delay_s * 1000
        self.feed.advance(self.catalogue, boundary_ts if first else boundary_ts - delay)
        self.catalogue.keep_spaces(*self._lineage.config.spaces_read(*self.catalogue.spaces))

    def _is_checkpoint_due(self) -> bool:
        at, every = self.progress.checkpoint_at, self._settings.checkpoint_every_wall_s
        return at is None or self._pauses.monotonic_s() - at >= every

    def _may_write(self) -> bool:
        return self._next_write_at is None or self._pauses.monotonic_s() >= self._next_write_at

    def _state(self, *, publishes: bool) -> State:
        prequential = Prequential() if publishes else self.learner.prequential
        return State(
            lineage=self._lineage.name,
            term=self._publisher.term,
            model=self._lineage.model,
            feature_schema=SCHEMAS[self._lineage.config.feature_schema].sha256,
            settings=self._lineage.settings(),
            adopted=self._adopted,
            origin=self._origin,
            skipped=self._skipped,
            learned_ranges=self._released.learned,
            position=self._batcher.position,
            boundary_number=self._boundary_number,
            published=self._published,
            learning=self.learner.state(prequential),
            image_space=self.catalogue.image_space,
            text_space=self.catalogue.text_space,
            environment=environment(),
        )
