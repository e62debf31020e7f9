import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from serving import run
from serving.http.client import UnreachableError, rank
from serving.settings import ServingSettings
from stream.broker.bus import Broker, Producer, read_to_end
from stream.errors import ConfigError, SchemaError
from stream.replicas import catalogue
from stream.schemas.events import Impression
from stream.schemas.topics import IMPRESSIONS
from tests.serving.live import live, wait_ready
from tests.serving.world import START_MS, World, body, items


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


@contextmanager
def process(home: Path, broker: Broker, port: int, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `shelfwise serving run`; ends it by force if the test has not."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHELFWISE_")}  # noqa: TID251
    environment |= {"SHELFWISE_HOME": str(home), "SHELFWISE_BROKER": broker.bootstrap}
    program = [sys.executable, "-c", "from deploy.cli import main; main()"]
    child = subprocess.Popen(
        [*program, "--set", "serving.default_lineage=base", "serving", "run", "--port", str(port), *flags],
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


def test_connections_answer_without_delay() -> None:
    async def no_delay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def seen(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(
                writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            )
            writer.close()

        with run.listen("127.0.0.1", 0) as bound:
            async with await asyncio.start_server(seen, sock=bound) as server:
                _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                found = await accepted
                writer.close()
                await writer.wait_closed()
                return found

    assert asyncio.run(no_delay()) == 1


def test_a_taken_address_is_a_configuration_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            run.listen("127.0.0.1", port)


def test_the_client_ranks_and_names_what_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    with live(world.service(ServingSettings(default_lineage="base", deadline_ms=5_000.0))) as address:
        answer = rank(address, json.dumps(body()).encode())
        assert (answer.lineage, answer.version, len(answer.items)) == ("base", "1", 30)
        with pytest.raises(SchemaError, match="currency"):
            rank(address, json.dumps(body(currency="x")).encode())
    with pytest.raises(UnreachableError):
        rank(address, b"{}")


@pytest.mark.system
@pytest.mark.kafka
def test_a_process_serves_delivers_and_stops_cleanly(tmp_path: Path, fresh_kafka: Broker) -> None:
    world = World(tmp_path)
    world.go_live("base", 1)
    with Producer(fresh_kafka) as producer:
        catalogue.publish(producer, items())
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with process(tmp_path, fresh_kafka, port, "--trust-event-ts", "--deadline-ms", "5000") as child:
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
        with process(tmp_path, fresh_kafka, port, "--trust-event-ts", "--deadline-ms", "5000") as child:
            wait_ready(address)
            asked = body("c-1", event_ts=START_MS)
            answered.append([item.item_id for item in rank(address, json.dumps(asked).encode()).items])
            child.send_signal(number)
            assert child.wait(10.0) == (0 if number == signal.SIGINT else -signal.SIGKILL)
    assert answered[0] == answered[1]
