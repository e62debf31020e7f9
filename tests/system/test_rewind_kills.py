"""R8: a trainer process that is killed at any step of the way back after a rollback, in the modes replay and skip."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.kafka.memory import MemoryBroker
from stream import db
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.replicas import catalogue
from tests.harness.kafka import PARTITIONS
from tests.harness.trainer_process import Attempt, send, written
from tests.trainer.harness import LINEAGE, SETTINGS, feed, make_loop
from tests.trainer.session_log import LogRecord, make_items, make_log
from tests.trainer.versions.test_rewind import OFTEN, without
from trainer.rollout import changes
from trainer.rollout.changes import RewindMode
from trainer.rollout.store import RolloutStore
from trainer.versions import artifact
from trainer.versions.registry import Registry

pytestmark = pytest.mark.system
NAME = LINEAGE.name
# Only full versions, so that equal states have equal files.
OWN = replace(SETTINGS, publish_s=10, keep_checkpoints=2, metrics_port=0, version_delta_share=0.0)
WRITES = ("before_write", "after_write", "after_fsync", "before_rename", "after_rename")
POINTS = [
    "rewind.before_event",
    "rewind.after_event",
    "rewind.after_removal",
    *(f"checkpoint.{step}" for step in WRITES),
    *(f"artifact.{step}" for step in WRITES),
    "before_row",
    "after_row",
    "after_verified",
]
NUM_SECONDS = 70
# Versions 1 to 4 have been published, and sessions behind the boundary of the last one have been learned.
READ = 120


class Prepared(NamedTuple):
    """A trainer that has published versions 1 to 4, and a broker with all records.

    Attributes:
        home: Its home folder.
        broker: The broker.
        log: The records.
    """

    home: Path
    broker: Broker
    log: list[LogRecord]


def attempt(home: Path, broker: Broker, until: int, number: int, kill_at: str | None = None) -> int | None:
    """Return the exit code of a trainer that runs until a version is complete, or dies at a failpoint."""
    return Attempt(
        home=home, broker=broker, lineage=OFTEN, settings=OWN, until=until, number=number, at=kill_at
    ).exit_code()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    home, log = tmp_path_factory.mktemp("home"), make_log(NUM_SECONDS, partitions=PARTITIONS)
    engine = db.create(f"sqlite:///{home}/test.db")
    db.metadata.create_all(engine)
    with MemoryBroker(PARTITIONS) as memory:
        with Producer(memory.broker) as producer:
            catalogue.publish(producer, make_items())
        send(memory.broker, log[:READ])
        assert attempt(home, memory.broker, until=4, number=1) == 0
        assert [each.version for each in Registry(engine).versions()] == [1, 2, 3, 4]
        engine.dispose()
        send(memory.broker, log[READ:])
        yield Prepared(home, memory.broker, log)


@pytest.fixture(scope="module")
def expected(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Versions of a trainer that has never gone past version 3: with its range, and without."""
    engine = db.create(f"sqlite:///{prepared.home}/test.db")
    versions = Registry(engine).versions(NAME)
    engine.dispose()
    good, bad = (artifact.read_manifest(prepared.home / "artifacts", each.artifact) for each in versions[2:4])
    logs = {"replay": prepared.log, "skip": without(prepared.log, good.boundary_ts, bad.boundary_ts)}
    found = {}
    for mode, log in logs.items():
        home = tmp_path_factory.mktemp(mode)
        other = db.create(f"sqlite:///{home}/test.db")
        db.metadata.create_all(other)
        feed(make_loop(home, other, lineage=OFTEN, settings=OWN, partitions=PARTITIONS), log)
        other.dispose()
        found[mode] = written(home, NAME)[3:]
    return found


@pytest.mark.parametrize("mode", ["replay", "skip"])
def test_r8_a_trainer_killed_at_each_step_of_the_way_back_goes_the_whole_way_again(
    prepared: Prepared, expected: dict[str, list[dict[str, str]]], tmp_path: Path, mode: RewindMode
) -> None:
    """R8: each process dies one step later than the one before, the last one after it has published."""
    shutil.copytree(prepared.home, tmp_path, dirs_exist_ok=True)
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    store, registry = RolloutStore(engine), Registry(engine)
    store.command(NAME, "rollback", lambda v: changes.rollback(v, 3, mode, "bad"), user="a", request_id=None, now_ms=1)
    last = 4 + len(expected[mode])
    for number, point in enumerate(POINTS, start=2):
        assert (registry.rewind(NAME) is None) == (point == "after_verified"), point
        engine.dispose()
        assert attempt(tmp_path, prepared.broker, last, number, kill_at=point) == -signal.SIGKILL, point
    assert attempt(tmp_path, prepared.broker, last, len(POINTS) + 2) == 0
    assert written(tmp_path, NAME)[4:] == expected[mode]

    versions = registry.versions(NAME)
    assert [each.version for each in versions] == list(range(1, last + 1))
    assert [each.status for each in versions[2:]] == ["live", "rolled_back", *["verified"] * len(expected[mode])]
    assert [each.parent for each in versions[4:]] == [versions[2].artifact, *(v.artifact for v in versions[4:-1])]
    left = [path.name for folder in ("artifacts", f"checkpoints/{NAME}") for path in (tmp_path / folder).iterdir()]
    assert not [name for name in left if name.startswith(".tmp-")]
    events = [event for event in store.history(NAME) if event.to_status == "rewound"]
    # All but the first, which died before, and the last, which found its version.
    assert len(events) == len(POINTS) - 2
    assert {event.version for event in events} == {3}
    assert {bool(event.evidence["skipped"]) for event in events} == {mode == "skip"}
    engine.dispose()
