"""A trainer, the controller and a service with ONNX Runtime as processes: versions from the log to the answers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from deploy.kafka.memory import MemoryBroker
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.replicas import catalogue
from stream.schemas import topics
from stream.schemas.session import Progress, Session, decode, encode
from stream.wall_clock import epoch_ms
from tests.serving.live import wait_ready, wait_until
from tests.serving.process import free_port, process
from tests.serving.world import World, body
from tests.trainer.harness import LINEAGE, SETTINGS
from tests.trainer.session_log import START_TS, LogRecord, make_items, make_log
from trainer.rollout import changes
from trainer.rollout.changes import Change
from trainer.rollout.states import LineageView
from trainer.rollout.store import RolloutStore
from trainer.versions import artifact

pytestmark = pytest.mark.system
NAME = LINEAGE.name
PARTITIONS = 4
NUM_WORKERS = 2
CLIENTS = [f"c-{number}" for number in range(60)]
# So little evidence that each gate is certain: what they compare is tested elsewhere.
POLICY: Mapping[str, object] = {
    "mode": "gated",
    "canary_share": 0.4,
    "canary_share_of_all": 0.4,
    "norm_sigma": 1e9,
    "prequential_lists": 1,
    "max_loss": 1e9,
    "max_lag": 1.0,
    "calibration_labels": 1,
    "calibration_low": 1e-9,
    "calibration_high": 1e9,
    "shadow_lists": 1,
    "min_correlation": -1.0,
    "max_churn": 1.0,
    "p99_ratio": 1e9,
    "max_fallbacks": 1.0,
}
TRAINER: Mapping[str, object] = {
    "learning.batch": LINEAGE.learning.batch,
    "learning.checkpoint_s": LINEAGE.learning.checkpoint_s,
    "trainer.publish_s": SETTINGS.publish_s,
    "trainer.metrics_port": 0,
    "trainer.onnx_graph": "true",
    "trainer.onnx_int8": "true",
    "trainer.int8_min_correlation": 0,
    "trainer.int8_max_churn": 1,
}


@contextmanager
def program(home: Path, broker: Broker, settings: Mapping[str, object], *words: str) -> Iterator[None]:
    """Run a command of `shelfwise`, and kill it at the end."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHELFWISE_")}  # noqa: TID251
    environment |= {"SHELFWISE_HOME": str(home), "SHELFWISE_BROKER": f"memory@{broker.bootstrap}"}
    sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with (home / f"{words[0]}.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "deploy", *sets, *words],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )
        try:
            yield
        finally:
            child.kill()
            child.wait()


def send(broker: Broker, records: Sequence[LogRecord]) -> None:
    with Producer(broker) as producer:
        for record in records:
            producer.send(topics.SESSIONS, key=None, value=record.value, partition=record.partition)


def between(from_s: int, until_s: int) -> list[LogRecord]:
    """Return the records of a time since the begin of the log."""
    found = []
    for record in make_log(300, partitions=PARTITIONS):
        content = decode(record.value)
        assert isinstance(content, Session | Progress)
        if from_s <= (content.watermark_ts - START_TS) / 1_000 < until_s:
            found.append(record)
    return found


def ranked_by(version: int, records: Sequence[LogRecord]) -> list[LogRecord]:
    """Return the records with sessions of lists that a version of the lineage ranked."""

    def changed(record: LogRecord) -> LogRecord:
        content = decode(record.value)
        if isinstance(content, Session):
            score = np.linspace(1.0, 0.0, content.n, dtype="<f4").tobytes()
            content = msgspec.structs.replace(content, lineage=NAME, version=str(version), score=score)
        return LogRecord(record.partition, record.offset, encode(content))

    return [changed(record) for record in records]


def workers_of(supervisor: int) -> list[int]:
    """Return the processes that a process started (proc(5))."""
    return [int(word) for word in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]


def answered(address: str) -> set[str | None]:
    """Return the versions that score the lists of the clients."""
    request: dict[str, Any] = {"candidates": [{"item_id": f"i{number}"} for number in range(20)]}
    with httpx.Client(base_url=address, timeout=30.0) as client:
        replies = [client.post("/v1/rank", json=body(each, **request)).json() for each in CLIENTS]
    return {reply.get("version") for reply in replies}


def damage(file: Path, graph: bytes) -> None:
    """Flip a bit of a graph in a file of a version."""
    raw = file.read_bytes()
    at = raw.index(graph) + len(graph) // 2
    file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])


def test_a_service_without_torch_follows_a_trainer_through_the_rollout(tmp_path: Path) -> None:
    # The trainer publishes each 40 s of the log: versions 1 and 2; 3, with which it begins to judge, and 4; 5.
    parts = [between(0, 100), between(100, 185), between(185, 225)]
    port, own = free_port(), free_port()
    addresses = [f"http://127.0.0.1:{own + number}" for number in range(NUM_WORKERS)]
    chosen = {"runtime": "onnx", "precision": "int8", "default_lineage": NAME, "workers_port": own, "poll_s": 0.2}
    world = World(tmp_path)
    store = RolloutStore(world.engine)

    def status() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for each in world.registry.versions(NAME):
            found.setdefault(each.status, []).append(each.version)
        return found

    def command(name: str, decide: Callable[[LineageView], Change]) -> None:
        store.command(NAME, name, decide, user="ada", request_id=None, now_ms=epoch_ms())

    def wait_for(*versions: int) -> None:
        wanted = {str(version) for version in versions}
        wait_until(lambda: all(answered(address) == wanted for address in addresses))

    with MemoryBroker(PARTITIONS) as memory:
        broker = memory.broker
        with Producer(broker) as producer:
            catalogue.publish(producer, make_items())
        send(broker, parts[0])
        argv = ("trainer", "run", NAME, "--model", LINEAGE.model, "--seed", "3", "--device", "cpu")
        with (
            process(tmp_path, broker, port, "--workers", str(NUM_WORKERS), settings=chosen) as supervisor,
            program(tmp_path, broker, TRAINER, *argv),
        ):
            # Mode direct: the trainer puts its versions live, and the service follows.
            for address in addresses:
                wait_ready(address)
            first = 2
            wait_until(lambda: status().get("live") == [first])
            wait_for(first)
            workers = workers_of(supervisor.pid)
            assert len(workers) == NUM_WORKERS
            for pid in workers:
                loaded = Path(f"/proc/{pid}/maps").read_text()
                assert ("libtorch" in loaded, "onnxruntime" in loaded) == (False, True)

            # Mode gated: the controller opens a canary as soon as all workers have the version.
            command("policy", lambda view: changes.set_policy(view, POLICY, "test"))
            send(broker, ranked_by(first, parts[1]))
            with program(tmp_path, broker, {}, "rollout", "run", "--metrics-port", "0"):
                second = 4
                wait_until(lambda: status().get("canary") == [second])
                wait_for(first, second)
                command("promote", lambda view: changes.promote(view, None, "fine"))
                wait_for(second)

                # A graph that is damaged before a worker has read it: no worker takes the version, and it is rejected.
                for pid in workers:
                    os.kill(pid, signal.SIGSTOP)
                send(broker, parts[2])
                bad = 5
                wait_until(lambda: status().get("verified") == [bad])
                address = world.registry.versions(NAME)[-1].artifact
                graph = artifact.load(world.artifacts, address).graph
                assert graph is not None
                damage(world.artifacts / address / "golden.safetensors", graph)
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
                wait_until(lambda: bad in status().get("rejected", ()))
            why = next(
                event.why for event in store.history(NAME) if (event.version, event.to_status) == (bad, "rejected")
            )
            assert "integrity: refused by every server" in why
            assert "hash of the manifest" in why
            wait_for(second)
            # All of them were scored in int8.
            for each in addresses:
                assert "full_precision_versions_total{" not in httpx.get(f"{each}/metrics").text
