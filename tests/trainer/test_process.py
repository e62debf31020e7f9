"""The trainer process on a real Kafka: trained from the topics, killed with SIGKILL, equal to an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from stream import db
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.replicas import catalogue
from stream.schemas import topics
from stream.schemas.events import ModelVersionAnnouncement
from tests.harness.kafka import PARTITIONS
from tests.harness.stores import complete_schema
from tests.trainer.harness import LINEAGE, SETTINGS, feed, make_loop
from tests.trainer.session_log import LogRecord, make_items, make_log
from trainer.configs import MODEL_PROFILES
from trainer.versions import artifact
from trainer.versions.registry import Registry, Version

pytestmark = pytest.mark.kafka
_DEADLINE_S = 300


def produce(broker: Broker, log: list[LogRecord]) -> None:
    with Producer(broker) as producer:
        catalogue.publish(producer, make_items())
        producer.flush()
        for record in log:
            producer.send(topics.SESSIONS, key=None, value=record.value, partition=record.partition)


def written(folder: Path, versions: list[Version]) -> list[dict[str, str]]:
    """Return the hashes of what each version holds, without its manifest, which names the lease term."""
    manifests = [artifact.read_manifest(folder, version.artifact) for version in versions]
    return [{name: entry.sha256 for name, entry in manifest.files.items()} for manifest in manifests]


@contextmanager
def trainer_process(home: Path, broker: Broker, model: str) -> Iterator[subprocess.Popen[bytes]]:
    complete_schema(f"sqlite:///{home}/shelfwise.db")
    environment: Mapping[str, str] = {
        **os.environ,  # noqa: TID251 - a child needs PATH and the like
        "SHELFWISE_HOME": str(home),
        "SHELFWISE_BROKER": broker.bootstrap,
        "SHELFWISE_LEARNING__BATCH": str(LINEAGE.learning.batch),
        "SHELFWISE_LEARNING__CHECKPOINT_S": str(LINEAGE.learning.checkpoint_s),
        "SHELFWISE_TRAINER__PUBLISH_S": str(SETTINGS.publish_s),
    }
    argv = [sys.executable, "-m", "deploy", "trainer", "run", LINEAGE.name, "--model", model]
    argv += ["--seed", str(LINEAGE.learning.seed), "--metrics-port", "0", "--device", "cpu"]
    with (home / "trainer.log").open("ab") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for_version(process: subprocess.Popen[bytes], home: Path, number: int) -> list[Version]:
    registry = Registry(db.create(f"sqlite:///{home}/shelfwise.db"))
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            pass
        else:
            break
        if (home / "artifacts").is_dir():
            found = registry.versions(LINEAGE.name)
            if found and found[-1].version >= number and found[-1].status == "live":
                return found
    raise AssertionError(f"no version {number}: {(home / 'trainer.log').read_text()}")


@pytest.mark.parametrize("model", ["prm", pytest.param("pier", marks=pytest.mark.system)])
def test_a_killed_trainer_equals_an_undisturbed_one(fresh_kafka: Broker, tmp_path: Path, model: str) -> None:
    log = make_log(600, partitions=PARTITIONS)
    lineage = replace(LINEAGE, model=model, config=MODEL_PROFILES[model]["tiny"])
    (tmp_path / "undisturbed").mkdir()
    engine = db.create(f"sqlite:///{tmp_path}/undisturbed/test.db")
    db.metadata.create_all(engine)
    loop = make_loop(tmp_path / "undisturbed", engine, partitions=PARTITIONS, lineage=lineage)
    feed(loop, log)
    expected = Registry(engine).versions(LINEAGE.name)

    produce(fresh_kafka, log)
    home = tmp_path / "home"
    home.mkdir()
    with trainer_process(home, fresh_kafka, model) as process:
        killed_at = wait_for_version(process, home, 1)[-1].version
        process.send_signal(signal.SIGKILL)
    with trainer_process(home, fresh_kafka, model) as process:
        versions = wait_for_version(process, home, expected[-1].version)
        process.terminate()
        assert process.wait(60) == 0
    assert killed_at < expected[-1].version
    assert written(home / "artifacts", versions) == written(tmp_path / "undisturbed" / "artifacts", expected)
    last = artifact.read_manifest(home / "artifacts", versions[-1].artifact)
    assert last.num_sessions == loop.learner.counters["trained"] == 600 + 200
    heard = [
        msgspec.json.decode(record.value or b"", type=ModelVersionAnnouncement)
        for record in read_to_end(fresh_kafka, topics.MODEL_VERSIONS)
    ]
    assert {one.version: one.artifact for one in heard} == {one.version: one.artifact for one in versions}
