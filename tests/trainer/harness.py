"""Runs the trainer's loop over a list of records, in pieces, with crashes where a test wants them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from sqlalchemy import Engine

from stream.failpoints import Failpoint, no_failpoint
from tests.trainer.session_log import ListFeed, LogRecord, make_items
from trainer.configs import MODEL_PROFILES, LearningSettings, architecture_hash
from trainer.feed.past_records import PastRecords, Place, check_retained
from trainer.graded_pages import GradedPages
from trainer.learning.determinism import make_deterministic
from trainer.learning.learner import Learner
from trainer.lineage import Lineage
from trainer.loop import Loop
from trainer.pauses import Pauses
from trainer.quarantine.store import Quarantine
from trainer.settings import TrainerSettings
from trainer.versions.checkpoint import Origin
from trainer.versions.publisher import Publisher
from trainer.versions.registry import Registry
from trainer.versions.signature import NO_KEYS, VersionKeys

LINEAGE = Lineage(
    name="test",
    model="prm",
    profile="tiny",
    config=MODEL_PROFILES["prm"]["tiny"],
    learning=LearningSettings(seed=3, batch=16, checkpoint_s=20),
    code_version="test",
)
SETTINGS = TrainerSettings(publish_s=40, checkpoint_every_wall_s=0, deltas_per_base=2)


class PastList:
    """Records from a list, as `trainer.feed.past_records.PastRecords`."""

    def __init__(self, log: Sequence[LogRecord], beginning: int = 0) -> None:
        self._log = log
        self._beginning = beginning

    def read(self, first: Mapping[int, int], until: Mapping[int, int]) -> list[LogRecord]:
        check_retained(dict.fromkeys(first, self._beginning), first, until)
        return [each for each in self._log if first[each.partition] <= each.offset < until[each.partition]]

    def at(self, places: Iterable[Place]) -> list[LogRecord]:
        wanted = set(places)
        return [r for r in self._log if r.offset >= self._beginning and (r.partition, r.offset) in wanted]


NO_PAST = PastList(())


class Crash(BaseException):
    """Stands for kill -9 at a failpoint: no `except Exception` catches it."""


def make_loop(
    folder: Path,
    engine: Engine,
    *,
    failpoint: Failpoint = no_failpoint,
    settings: TrainerSettings = SETTINGS,
    partitions: int = 3,
    lineage: Lineage = LINEAGE,
    adopt: bool = False,
    origin: Origin | None = None,
    monotonic_s: Callable[[], float] = lambda: 0.0,
    keys: VersionKeys = NO_KEYS,
    now_ms: Callable[[], int] = lambda: 0,
    past: PastRecords = NO_PAST,
    graded: GradedPages | None = None,
) -> Loop:
    make_deterministic(1)
    registry = Registry(engine)
    registry.ensure_lineage(
        lineage.name, lineage.model, lineage.profile, architecture_hash(lineage.model, lineage.config)
    )
    term = registry.leases.acquire(lineage.name, "holder", 0, 1_000_000)
    publisher = Publisher(
        registry,
        folder / "artifacts",
        lineage.name,
        term,
        announce=lambda _announcement: None,
        now_ms=now_ms,
        keep_versions=settings.keep_versions,
        failpoint=failpoint,
        keys=keys,
    )
    return Loop(
        lineage,
        Learner(lineage.model, lineage.config, lineage.learning, device=torch.device("cpu")),
        partitions=dict.fromkeys(range(partitions), 0),
        feed=ListFeed(make_items()),
        publisher=publisher,
        quarantine=Quarantine(engine),
        past=past,
        folder=folder / "checkpoints",
        settings=settings,
        graded=graded,
        adopt=adopt,
        origin=origin,
        # A wait that a stop ends at once: an error of the database is raised instead of retried.
        pauses=Pauses(monotonic_s=monotonic_s, wait=lambda _: True, random=lambda: 0.0),
        failpoint=failpoint,
    )


def feed(loop: Loop, log: Sequence[LogRecord], piece: int = 7) -> None:
    """Start the loop and push what lies behind its cursors, in pieces."""
    offsets = loop.start()
    todo = [record for record in log if record.offset >= offsets[record.partition]]
    for start in range(0, len(todo), piece):
        loop.push(todo[start : start + piece])


def weights(loop: Loop) -> dict[str, bytes]:
    return {name: weight.detach().numpy().tobytes() for name, weight in loop.learner.params.items()}
