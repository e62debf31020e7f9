"""A trainer on a memory broker as a process of its own, which ends or stops itself where a test wants it."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from stream import db
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.schemas import topics
from tests.trainer.session_log import LogRecord
from trainer.lineage import Lineage
from trainer.pauses import Pauses
from trainer.run import Dependencies, Folders, run
from trainer.settings import TrainerSettings
from trainer.versions import artifact
from trainer.versions.registry import Registry

_LIMIT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process of a trainer.

    Attributes:
        home: Folder of its database and its versions.
        broker: The broker.
        lineage: The lineage.
        settings: Settings of the trainer.
        until: Version after which it ends.
        number: Number of the attempt: the leases of those with lower ones have expired.
        at: Failpoint at whose first call it sends itself the signal.
        signal: The signal.
        checkpoints: Folder of its checkpoints under the home.
    """

    home: Path
    broker: Broker
    lineage: Lineage
    settings: TrainerSettings
    until: int
    number: int
    at: str | None = None
    signal: int = signal.SIGKILL
    checkpoints: str = "checkpoints"

    def start(self) -> BaseProcess:
        """Return the running process."""
        server = multiprocessing.get_context("forkserver")
        # Torch is imported once, in the server that the processes are forked from.
        server.set_forkserver_preload([__name__])
        child = server.Process(target=_train, args=(self,))
        child.start()
        return child

    def exit_code(self) -> int | None:
        """Return the exit code of the process."""
        child = self.start()
        child.join(_LIMIT_S)
        return child.exitcode


def _train(attempt: Attempt) -> None:
    name = attempt.lineage.name
    engine = db.create(f"sqlite:///{attempt.home}/test.db")
    registry, ticks = Registry(engine), itertools.count()

    def is_done() -> bool:
        return any(each.version == attempt.until and each.status != "published" for each in registry.versions(name))

    reached: set[str] = set()

    def failpoint(point: str) -> None:
        if point == attempt.at and point not in reached:
            reached.add(point)
            os.kill(os.getpid(), attempt.signal)

    now_ms = attempt.number * 10 * attempt.settings.lease_ttl_s * 1_000
    pauses = Pauses(monotonic_s=lambda: float(next(ticks)) / 1_000, wait=lambda _: False, random=lambda: 0.0)
    folders = Folders(checkpoints=attempt.home / attempt.checkpoints / name, artifacts=attempt.home / "artifacts")
    run(
        attempt.lineage,
        attempt.settings,
        attempt.broker,
        engine,
        folders=folders,
        dependencies=Dependencies(now_ms=lambda: now_ms, pauses=pauses, is_stopping=is_done),
        device="cpu",
        holder=f"attempt {attempt.number}",
        failpoint=failpoint,
    )
    engine.dispose()


def send(broker: Broker, records: Sequence[LogRecord]) -> None:
    """Send records to the sessions."""
    with Producer(broker) as producer:
        for record in records:
            producer.send(topics.SESSIONS, key=None, value=record.value, partition=record.partition)


def written(home: Path, lineage: str) -> list[dict[str, str]]:
    """Return the hashes of the files of each version, oldest first."""
    engine = db.create(f"sqlite:///{home}/test.db")
    manifests = [
        artifact.read_manifest(home / "artifacts", each.artifact) for each in Registry(engine).versions(lineage)
    ]
    engine.dispose()
    return [{name: entry.sha256 for name, entry in manifest.files.items()} for manifest in manifests]
