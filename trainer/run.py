"""The trainer process: Kafka in, versions out, one lease, one lock on its checkpoints.

Source: docs/training.md.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from stream.broker.offsets import beginning_offsets
from stream.broker.producer import Producer
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import BusError, ConfigError, FencedError, StoreError
from stream.failpoints import Failpoint, no_failpoint
from stream.files import FolderInUseError, FolderLock, remove_abandoned
from stream.probes import ProbeServer
from stream.process_metrics import process_registry
from stream.schemas import events, topics
from trainer.configs import architecture_hash
from trainer.configs.smar import SmarConfig
from trainer.feed.items import KafkaItems
from trainer.feed.log_tail import LogTail
from trainer.feed.past_records import KafkaPastRecords
from trainer.graded_pages import GradedPages
from trainer.learning.determinism import auto_device, make_deterministic
from trainer.learning.freed_memory import keep_freed_memory
from trainer.learning.learner import Learner, LearningHalted
from trainer.learning.teachers import Teachers
from trainer.lineage import Lineage
from trainer.loop import Loop
from trainer.metrics import LoopCollector
from trainer.pauses import Pauses
from trainer.quarantine.store import Quarantine
from trainer.settings import TrainerSettings
from trainer.versions.atomic_folder import TEMPORARY_PREFIX
from trainer.versions.origin import find
from trainer.versions.publisher import Publisher
from trainer.versions.registry import Registry
from trainer.versions.signature import NO_KEYS, VersionKeys
from trainer.versions.wanted import Wanted
from trainer.writer_lease import WriterLease

_POLL_RECORDS = 512
_DECISION_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Injected dependencies of a trainer process.

    Attributes:
        now_ms: Epoch milliseconds, for leases and the registry.
        pauses: Monotonic clock, waiting and jitter.
        is_stopping: Returns whether a stop was requested.
    """

    now_ms: Callable[[], int]
    pauses: Pauses
    is_stopping: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The folders of a trainer."""

    checkpoints: Path
    artifacts: Path

    @classmethod
    def under(cls, home: Path, lineage: str) -> "Folders":
        """Return the folders of a lineage under the home folder; versions of all lineages share one."""
        return cls(checkpoints=home / "checkpoints" / lineage, artifacts=home / "artifacts")


def run(
    lineage: Lineage,
    settings: TrainerSettings,
    broker: Broker,
    engine: Engine,
    *,
    folders: Folders,
    dependencies: Dependencies,
    device: str = "auto",
    adopt: bool = False,
    warm_start: Wanted | None = None,
    keys: VersionKeys = NO_KEYS,
    holder: str,
    failpoint: Failpoint = no_failpoint,
) -> Loop:
    """Train until a stop is requested, and return the loop in its last state.

    Raises:
        ConfigError: If the lineage exists with another configuration, a learning setting changed and is not to be
            adopted, the version to start from does not fit, or another process uses the checkpoints.
        FencedError: If a later writer has taken over.
        BusError: If the log does not hold the offset to continue from: nothing is skipped silently.
        LearningHalted: If too many batches in a row were refused.
    """
    make_deterministic(settings.threads)
    keep_freed_memory()
    settings.boundaries(lineage.learning)
    store = Registry(engine)
    lease = WriterLease(
        store.leases,
        lineage.name,
        holder,
        ttl_ms=settings.lease_ttl_s * 1000,
        now_ms=dependencies.now_ms,
        pauses=dependencies.pauses,
    )
    readiness = _Readiness(lease)
    metrics = process_registry()
    with ExitStack() as stack:
        stack.enter_context(_claim(folders.checkpoints))
        remove_abandoned(folders.checkpoints, TEMPORARY_PREFIX)
        if settings.metrics_port:
            stack.enter_context(
                ProbeServer(
                    settings.metrics_host, settings.metrics_port, metrics, readiness.why_not_ready, section="trainer"
                )
            )
        # Before the lineage is recorded with a model or teachers that may not fit.
        origin = None
        if warm_start is not None:
            origin = find(
                warm_start,
                lineage.model,
                lineage.config,
                registry=store,
                versions=folders.artifacts,
                checkpoints=folders.checkpoints,
                keys=keys,
            )
        addresses = lineage.config.teachers if isinstance(lineage.config, SmarConfig) else ()
        torch_device = auto_device(device)
        teachers = Teachers.load(folders.artifacts, addresses, torch_device, keys)
        store.ensure_lineage(
            lineage.name,
            lineage.model,
            lineage.profile,
            architecture_hash(lineage.model, lineage.config),
            keeps=addresses,
        )
        if not lease.acquire():
            raise FencedError(f"lineage {lineage.name}: stopped while waiting for the lease")
        producer = stack.enter_context(Producer(broker))
        feed = KafkaItems(broker)
        stack.callback(feed.close)
        publisher = Publisher(
            store,
            folders.artifacts,
            lineage.name,
            lease.term,
            announce=lambda announcement: _announce(producer, announcement),
            now_ms=dependencies.now_ms,
            keep_versions=settings.keep_versions,
            failpoint=failpoint,
            keys=keys,
        )
        past = KafkaPastRecords(broker)
        first_offsets = {p: offset for (_, p), offset in beginning_offsets(broker, [topics.SESSIONS]).items()}
        loop = Loop(
            lineage,
            Learner(
                lineage.model,
                lineage.config,
                lineage.learning,
                device=torch_device,
                halt_after=settings.halt_after,
                teachers=teachers,
            ),
            partitions=first_offsets,
            feed=feed,
            publisher=publisher,
            quarantine=Quarantine(engine),
            past=past,
            folder=folders.checkpoints,
            settings=settings,
            graded=_graded_pages(lineage, broker, past, stack),
            adopt=adopt,
            origin=origin,
            pauses=dependencies.pauses,
            failpoint=failpoint,
            before_step=lease.keep,
            is_stopping=dependencies.is_stopping,
        )
        metrics.register(LoopCollector(lineage.name, loop, dependencies.pauses.monotonic_s))
        if not _is_decided(publisher, lease, dependencies, readiness):
            return loop
        offsets = loop.start()
        publisher.remove_orphans()
        positions = {(topics.SESSIONS, partition): offset for partition, offset in offsets.items()}
        reader = stack.enter_context(Reader(broker, positions, max_records=_POLL_RECORDS))
        _log.info("lineage %s: term %d, version %d, from %s", lineage.name, lease.term, loop.progress.version, offsets)
        _follow(loop, reader, dependencies, lease=lease, max_waiting=settings.max_waiting, readiness=readiness)
    return loop


def _graded_pages(lineage: Lineage, broker: Broker, past: KafkaPastRecords, stack: ExitStack) -> GradedPages | None:
    """Return the pages that people graded, with a connection that the stack closes; None if the model learns none."""
    if not isinstance(lineage.config, SmarConfig) or not lineage.config.learns_grades:
        return None
    tail = LogTail(broker, topics.ANNOTATIONS)
    stack.callback(tail.close)
    return GradedPages(tail.read, past, batch=lineage.learning.batch, passes=lineage.config.grade_passes)


def _is_decided(publisher: Publisher, lease: WriterLease, dependencies: Dependencies, readiness: "_Readiness") -> bool:
    """Wait, after a rollback of mode `wait`, until a user decides; return False if a stop comes first.

    Raises:
        FencedError: If a later term has taken over.
    """
    first = readiness.reason
    while True:
        lease.keep()
        try:
            demand = publisher.rewind()
        except StoreError as error:
            _log.warning("lineage %s: whether a rollback demands something is unknown: %s", publisher.lineage, error)
        else:
            if demand is None or demand.mode != "wait":
                readiness.reason = first
                return True
            waits = (
                f"waits after a rollback to version {demand.to}: shelfwise rollout rewind {publisher.lineage}"
                " replay or skip, or shelfwise rollout resume, lets training go on"
            )
            if readiness.reason != waits:
                _log.warning("lineage %s %s", publisher.lineage, waits)
            readiness.reason = waits
        if dependencies.is_stopping() or dependencies.pauses.wait(_DECISION_S):
            return False


def _follow(
    loop: Loop,
    reader: Reader,
    dependencies: Dependencies,
    *,
    lease: WriterLease,
    max_waiting: int,
    readiness: "_Readiness",
) -> None:
    paused: set[int] = set()
    while not dependencies.is_stopping():
        lease.keep()
        try:
            loop.push(reader.poll())
        except LearningHalted as error:
            readiness.reason = f"learning halted: {error}"
            raise
        readiness.reason = loop.guard.why_not_learning
        ahead = loop.merge.ahead(max_waiting)
        reader.pause((topics.SESSIONS, partition) for partition in ahead - paused)
        reader.resume((topics.SESSIONS, partition) for partition in paused - ahead)
        paused = ahead


class _Readiness:
    """The readiness of the process, read by the threads of the probe server."""

    def __init__(self, lease: WriterLease) -> None:
        self._lease = lease
        self.reason: str | None = "no record of the topic sessions was read yet"

    def why_not_ready(self) -> str | None:
        """Return the reason why the process cannot train and publish, or None if it can."""
        return self.reason if self._lease.is_held() else "the lease of the lineage is not held"


def _announce(producer: Producer, announcement: events.ModelVersionAnnouncement) -> None:
    try:
        producer.send(topics.MODEL_VERSIONS, key=announcement.lineage.encode(), value=events.encode(announcement))
        producer.flush()
    except BusError as error:
        # The announcement is a hint; servers poll the registry too.
        _log.warning("version %d of %s not announced: %s", announcement.version, announcement.lineage, error)


def _claim(folder: Path) -> FolderLock:
    try:
        return FolderLock(folder)
    except FolderInUseError as error:
        raise ConfigError(f"{folder}: another trainer uses these checkpoints") from error
