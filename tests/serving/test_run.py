import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import msgspec
import pytest
from sqlalchemy import select

from deploy.kafka.memory import MemoryBroker
from serving.http.client import rank
from stream import db
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.replicas import catalogue
from stream.schemas.events import Impression
from stream.schemas.topics import IMPRESSIONS
from tests.serving.live import wait_ready, wait_until
from tests.serving.process import free_port, process
from tests.serving.world import START_MS, World, body, items, publish
from trainer.rollout.tables import servers

_WITHOUT_TORCH = """
import sys
from pathlib import Path

import deploy.commands.serving
import serving.http.server
from serving.ranking.scorer import Loader
from serving.run import build
from serving.settings import ServingSettings

home = Path(sys.argv[1])
build(ServingSettings(runtime="onnx"), home=home, broker=None, engine=None, query_hash_key=b"key")
assert Loader(home / "artifacts", runtime="onnx").load(sys.argv[2]).verify() < 1e-4
print(*sorted({"onnxruntime", "onnx", "torch"} & sys.modules.keys()))
"""


@pytest.mark.slow
def test_with_onnx_as_the_runtime_a_process_loads_and_scores_without_torch(tmp_path: Path) -> None:
    address = publish(tmp_path / "artifacts", "base", 1, model="armmt", with_graph=True)
    told = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, tmp_path, address],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout == "onnxruntime\n"


@pytest.mark.system
@pytest.mark.kafka
def test_a_process_serves_delivers_and_stops_cleanly(tmp_path: Path, fresh_kafka: Broker) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    with Producer(fresh_kafka) as producer:
        catalogue.publish(producer, items())
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with process(tmp_path, fresh_kafka, port, "--trust-event-ts") as child:
        wait_ready(address)
        health = httpx.get(f"{address}/readyz").json()
        assert (health["versions"], health["num_items"], health["catalogue"]) == ({"base": "1"}, 60, "current")
        answers = [rank(address, json.dumps(body(f"c-{k}", event_ts=START_MS)).encode()) for k in range(20)]
        child.send_signal(signal.SIGTERM)
        assert child.wait(10.0) == 0
    assert {(answer.version, answer.fallback) for answer in answers} == {("1", None)}
    found = [
        msgspec.json.decode(record.value or b"", type=Impression) for record in read_to_end(fresh_kafka, IMPRESSIONS)
    ]
    assert sorted(one.event_id for one in found) == sorted(answer.impression_event_id for answer in answers)
    assert {one.event_ts for one in found} == {START_MS}


@pytest.mark.system
@pytest.mark.kafka
def test_v6_after_a_kill_the_next_process_is_ready_and_serves_the_same(tmp_path: Path, fresh_kafka: Broker) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    answered = []
    for number in (signal.SIGKILL, signal.SIGINT):
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        with process(tmp_path, fresh_kafka, port, "--trust-event-ts") as child:
            wait_ready(address)
            asked = body("c-1", event_ts=START_MS)
            answered.append([item.item_id for item in rank(address, json.dumps(asked).encode()).items])
            child.send_signal(number)
            assert child.wait(10.0) == (0 if number == signal.SIGINT else -signal.SIGKILL)
    assert answered[0] == answered[1]


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started (proc(5))."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.system
def test_a_killed_worker_loses_only_requests_in_flight_and_is_started_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    port, own = free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    outcomes: list[list[int]] = [[] for _ in range(8)]
    stop = threading.Event()

    def ask(number: int) -> None:
        """Ask again and again, over one connection while it holds; 0 stands for a lost request."""
        with httpx.Client(base_url=address, timeout=30.0) as client:
            while not stop.is_set():
                try:
                    outcomes[number].append(client.post("/v1/rank", json=body(f"c-{number}")).status_code)
                except httpx.TransportError:
                    outcomes[number].append(0)

    with MemoryBroker(4) as memory:
        with Producer(memory.broker) as producer:
            catalogue.publish(producer, items())
        chosen = {"workers_port": own}
        with process(tmp_path, memory.broker, port, "--workers", "2", settings=chosen) as supervisor:
            workers = [f"http://127.0.0.1:{own + number}" for number in range(2)]
            for each in workers:
                wait_ready(each)
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(outcomes))]
            for thread in threads:
                thread.start()
            wait_until(lambda: all(len(found) > 20 for found in outcomes))
            first = children_of(supervisor.pid)
            os.kill(first[0], signal.SIGKILL)
            wait_until(lambda: first[0] not in children_of(supervisor.pid))
            seen = [len(found) for found in outcomes]
            wait_until(lambda: all(len(found) > before + 20 for found, before in zip(outcomes, seen, strict=True)))
            wait_until(lambda: len(children_of(supervisor.pid)) == 2)
            for each in workers:
                wait_ready(each)
            stop.set()
            for thread in threads:
                thread.join()
            with db.read(world.engine) as connection:
                names = set(connection.execute(select(servers.c.name)).scalars())
            answered = [httpx.get(f"{each}/metrics").text for each in workers]
            last = children_of(supervisor.pid)
            supervisor.send_signal(signal.SIGTERM)
            assert supervisor.wait(30.0) == 0
            assert not any(Path(f"/proc/{pid}").exists() for pid in last)
    assert {status for found in outcomes for status in found} <= {200, 0}
    # A client has one request in flight; the one whose connection was given to the dead worker meanwhile, one more.
    assert all(found.count(0) <= 2 for found in outcomes), [found.count(0) for found in outcomes]
    assert {f"{socket.gethostname()}:{port}/{number}" for number in (1, 2)} <= names
    assert answered[0] != answered[1]
