"""The trainer process: Kafka in, versions out, one lease, one lock on its checkpoints.

Source: TRAINING_SERVING.md 2, RELIABILITY.md 2 (trainer column).
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
from stream.files import FolderInUseError, FolderLock, remove_abandoned
from stream.schemas import events, topics
from trainer.feed.items import KafkaItems
from trainer.learning.learner import Learner, auto_device, make_deterministic
from trainer.loop import Lineage, Loop
from trainer.metrics import LoopCollector, served
from trainer.models import MODELS, ModelConfig, architecture_hash, decode_config, encode_config
from trainer.settings import TrainerSettings
from trainer.versions.atomic_folder import TEMPORARY_PREFIX, Failpoint, no_failpoint
from trainer.versions.publisher import Publisher
from trainer.versions.registry import Registry

_POLL_RECORDS = 512
_BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The times a process lives by.

    Attributes:
        now_ms: Epoch milliseconds, for leases and the registry.
        wall_s: Monotonic seconds.
        wait: Waits so many seconds or until a stop is asked for; returns whether it was.
        stopping: Whether a stop was asked for.
    """

    now_ms: Callable[[], int]
    wall_s: Callable[[], float]
    wait: Callable[[float], bool]
    stopping: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """Where a trainer keeps things on disk."""

    checkpoints: Path
    artifacts: Path

    @classmethod
    def under(cls, home: Path, lineage: str) -> "Folders":
        """Return the folders of a lineage under the home folder; versions of all lineages share one."""
        return cls(checkpoints=home / "checkpoints" / lineage, artifacts=home / "artifacts")


def configure(model: str, profile: str, vector_width: int) -> ModelConfig:
    """Return the configuration of a model's profile; a `vector_width` of 0 keeps the profile's.

    Raises:
        ConfigError: If the model or the profile is unknown.
    """
    if model not in MODELS or profile not in MODELS[model].profiles:
        known = {name: sorted(spec.profiles) for name, spec in MODELS.items()}
        raise ConfigError(f"model {model!r} with profile {profile!r} is unknown; known: {known}")
    values = encode_config(MODELS[model].profiles[profile])
    return decode_config(model, values | ({"vector_width": vector_width} if vector_width else {}))


def run(
    lineage: Lineage,
    settings: TrainerSettings,
    broker: Broker,
    engine: Engine,
    folders: Folders,
    clocks: Clocks,
    *,
    device: str = "auto",
    holder: str,
    failpoint: Failpoint = no_failpoint,
) -> Loop:
    """Train until a stop is asked for, and return the loop as it was then.

    Raises:
        ConfigError: If the lineage exists with another configuration, or another process uses the checkpoints.
        FencedError: If a later writer has taken over.
        BusError: If the log no longer holds the offset to go on from: nothing is skipped silently.
    """
    make_deterministic(settings.threads)
    config = configure(lineage.model, lineage.profile, settings.vector_width)
    registry = Registry(engine)
    with ExitStack() as stack:
        stack.enter_context(_claim(folders.checkpoints))
        remove_abandoned(folders.checkpoints, TEMPORARY_PREFIX)
        registry.ensure_lineage(
            lineage.name, lineage.model, lineage.profile, architecture_hash(lineage.model, config), "shared"
        )
        lease = _Lease(registry, lineage.name, holder, settings.lease_ttl_s * 1000, clocks)
        if not lease.acquire():
            raise FencedError(f"lineage {lineage.name}: stopped while waiting for the lease")
        producer = stack.enter_context(Producer(broker))
        feed = KafkaItems(broker)
        stack.callback(feed.close)
        publisher = Publisher(
            registry,
            folders.artifacts,
            lineage.name,
            lease.term,
            lambda announcement: _announce(producer, announcement),
            clocks.now_ms,
            failpoint,
        )
        first_offsets = {p: offset for (_, p), offset in beginning_offsets(broker, [topics.SESSIONS]).items()}
        loop = Loop(
            lineage,
            Learner(lineage.model, config, settings, seed=lineage.seed, device=auto_device(device)),
            first_offsets,
            feed,
            publisher,
            folders.checkpoints,
            wall_s=clocks.wall_s,
            failpoint=failpoint,
            stop=lambda: lease.keep() or clocks.stopping(),
            retry=_Retry(clocks),
        )
        stack.enter_context(served(LoopCollector(lineage.name, loop, clocks.wall_s), settings.metrics_port))
        offsets = loop.start()
        positions = {(topics.SESSIONS, partition): offset for partition, offset in offsets.items()}
        reader = stack.enter_context(Reader(broker, positions, max_records=_POLL_RECORDS))
        _log.info("lineage %s: term %d, version %d, from %s", lineage.name, lease.term, loop.progress.version, offsets)
        _follow(loop, reader, clocks, lease, settings.max_waiting)
    return loop


def _follow(loop: Loop, reader: Reader, clocks: Clocks, lease: "_Lease", max_waiting: int) -> None:
    paused: set[int] = set()
    while not clocks.stopping():
        lease.keep()
        loop.push(reader.poll())
        ahead = loop.merge.ahead(max_waiting)
        reader.pause((topics.SESSIONS, partition) for partition in ahead - paused)
        reader.resume((topics.SESSIONS, partition) for partition in paused - ahead)
        paused = ahead


class _Lease:
    """The lease of this process; while the database is down it is kept in good faith, the store refuses the rest."""

    def __init__(self, registry: Registry, lineage: str, holder: str, ttl_ms: int, clocks: Clocks) -> None:
        self._registry = registry
        self._lineage = lineage
        self._holder = holder
        self._ttl_ms = ttl_ms
        self._clocks = clocks
        self._renewed_s: float | None = None
        self.term = 0

    def acquire(self) -> bool:
        """Take the lease, waiting for another holder's to expire; False if a stop comes first."""
        while True:
            try:
                self.term = self._registry.acquire_lease(
                    self._lineage, self._holder, self._clocks.now_ms(), self._ttl_ms
                )
            except FencedError as error:
                _log.info("waiting for the lease: %s", error)
                if self._clocks.wait(min(1.0, self._ttl_ms / 3000)):
                    return False
            else:
                self._renewed_s = self._clocks.wall_s()
                return True

    def keep(self) -> bool:
        """Renew when a third of the lease has passed; always False, for use between steps.

        Raises:
            FencedError: If a later term has taken over.
        """
        if self._renewed_s is not None and self._clocks.wall_s() - self._renewed_s < self._ttl_ms / 3000:
            return False
        try:
            self._registry.renew_lease(self._lineage, self.term, self._clocks.now_ms(), self._ttl_ms)
        except FencedError:
            raise
        except StoreError as error:
            _log.warning("lease not renewed: %s", error)
        self._renewed_s = self._clocks.wall_s()
        return False


class _Retry:
    """Waits longer and longer between attempts of a step that needs the database."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._attempt = 0

    def __call__(self, error: StoreError) -> bool:
        delay_s = _BACKOFF_S[min(self._attempt, len(_BACKOFF_S) - 1)]
        self._attempt += 1
        _log.warning("training pauses, next attempt in %.1f s: %s", delay_s, error)
        return not self._clocks.wait(delay_s)


def _announce(producer: Producer, announcement: events.ModelVersionAnnouncement) -> None:
    try:
        producer.send(topics.MODEL_VERSIONS, key=announcement.lineage.encode(), value=events.encode(announcement))
        producer.flush()
    except BusError as error:
        # A hint only: servers poll the registry too.
        _log.warning("version %d of %s not announced: %s", announcement.version, announcement.lineage, error)


def _claim(folder: Path) -> FolderLock:
    try:
        return FolderLock(folder)
    except FolderInUseError as error:
        raise ConfigError(f"{folder}: another trainer uses these checkpoints") from error
