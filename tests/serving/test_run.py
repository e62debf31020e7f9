import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

from serving.http.client import rank
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.replicas import catalogue
from stream.schemas.events import Impression
from stream.schemas.topics import IMPRESSIONS
from tests.serving.live import wait_ready
from tests.serving.process import free_port, process
from tests.serving.world import START_MS, World, body, items, publish

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
