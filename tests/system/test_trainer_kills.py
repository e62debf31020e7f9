"""Trainers that are killed at random moments (T2), and one that sleeps beyond its lease (T5)."""

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.kafka.memory import MemoryBroker
from stream import db
from stream.broker.producer import Producer
from stream.replicas import catalogue
from tests.harness.kafka import PARTITIONS
from tests.harness.trainer_process import Attempt, send, written
from tests.serving.live import wait_until
from tests.trainer.harness import LINEAGE, SETTINGS, feed, make_loop
from tests.trainer.session_log import make_items, make_log
from trainer.versions import artifact
from trainer.versions.registry import Registry

pytestmark = pytest.mark.system
NAME = LINEAGE.name
# Only full versions, so that equal states have equal files.
OWN = replace(SETTINGS, version_delta_share=0.0, metrics_port=0)
NUM_KILLS = 50
LOG = make_log()


def train_until_killed(home: Path, moment: int) -> None:
    """Read the log from the checkpoint on; the process dies at that step or failpoint, counted from its start."""
    left = moment

    def tick(_name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = db.create(f"sqlite:///{home}/test.db")
    loop = make_loop(home, engine, settings=OWN, failpoint=tick)
    push = loop.push

    def counted(records: object) -> None:
        tick("push")
        push(records)  # type: ignore[arg-type] # the argument is passed on

    loop.push = counted  # type: ignore[method-assign]
    feed(loop, LOG)


def test_t2_a_trainer_killed_at_fifty_random_moments_learns_each_session_once(tmp_path: Path) -> None:
    expected_home = tmp_path / "expected"
    expected_home.mkdir()
    engine = db.create(f"sqlite:///{expected_home}/test.db")
    db.metadata.create_all(engine)
    loop = make_loop(expected_home, engine, settings=OWN)
    feed(loop, LOG)
    expected = written(expected_home, NAME)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    random, num_kills, num_homes = np.random.default_rng(2), 0, 0
    while num_kills < NUM_KILLS:
        home, num_homes = tmp_path / str(num_homes), num_homes + 1
        home.mkdir()
        db.metadata.create_all(db.create(f"sqlite:///{home}/test.db"))
        for _ in range(200):
            # A run has some 250 such moments, and a checkpoint after at most 40 of them.
            moment = int(random.integers(1, 120))
            child = server.Process(target=train_until_killed, args=(home, moment))
            child.start()
            child.join(120)
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL, f"home {num_homes}, kill {num_kills}"
            num_kills += 1
        assert written(home, NAME) == expected, f"home {num_homes}, kill {num_kills}"
        versions = Registry(db.create(f"sqlite:///{home}/test.db")).versions(NAME)
        last = artifact.read_manifest(home / "artifacts", versions[-1].artifact)
        assert last.num_sessions == loop.learner.counters["trained"]


def test_t5_a_trainer_that_wakes_after_its_lease_was_taken_over_publishes_nothing(tmp_path: Path) -> None:
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    registry = Registry(engine)

    def state(pid: int) -> str:
        """Return the state of a process (proc(5)): T is stopped."""
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    with MemoryBroker(PARTITIONS) as memory:
        with Producer(memory.broker) as producer:
            catalogue.publish(producer, make_items())
        send(memory.broker, make_log(partitions=PARTITIONS))
        first = Attempt(
            home=tmp_path,
            broker=memory.broker,
            lineage=LINEAGE,
            settings=OWN,
            until=6,
            number=1,
            at="before_row",
            signal=signal.SIGSTOP,
        )
        holder = first.start()
        assert holder.pid is not None
        try:
            wait_until(lambda: state(holder.pid or 0) == "T")
            assert registry.versions(NAME) == [], "it stopped before the row of version 1"
            # Another machine has checkpoints of its own.
            other = replace(first, number=2, at=None, until=2, checkpoints="other")
            assert other.exit_code() == 0
            taken = registry.versions(NAME)
            os.kill(holder.pid, signal.SIGCONT)
            holder.join(120)
        finally:
            holder.kill()
            holder.join()
    assert holder.exitcode == 1, "it was told by the registry, as its own clock stood still"
    assert [(each.version, each.status) for each in taken] == [(1, "superseded"), (2, "live")]
    assert registry.versions(NAME) == taken
    assert [each.parent for each in taken] == [None, taken[0].artifact]
    events = [artifact.read_manifest(tmp_path / "artifacts", each.artifact).term for each in taken]
    assert events == [2, 2]
