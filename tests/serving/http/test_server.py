import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest
import uvicorn

from serving.http.app import create
from serving.http.server import DrainingServer, listen
from serving.settings import ServingSettings
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.schemas.events import Impression
from stream.schemas.topics import IMPRESSIONS
from tests.serving.live import LIMIT_S, wait_ready
from tests.serving.process import free_port, process
from tests.serving.world import START_MS, World, body


class Timer:
    """A timer that a test fires by hand."""

    def __init__(self) -> None:
        self.set = threading.Event()
        self.delay_s = 0.0
        self.fire: Callable[[], None] = lambda: None

    def __call__(self, delay_s: float, action: Callable[[], None]) -> None:
        self.delay_s, self.fire = delay_s, action
        self.set.set()


def test_the_server_is_unready_and_answers_until_the_drain_is_over(tmp_path: Path) -> None:
    service = World(tmp_path).service(ServingSettings(deadline_ms=5_000.0))
    timer = Timer()
    config = uvicorn.Config(create(service), log_config=None, access_log=False, lifespan="on")
    server = DrainingServer(config, drain_s=5.0, on_drain=service.drain, call_later=timer)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            wait_ready(address)
            with httpx.Client(base_url=address) as client:
                assert "connection" not in client.get("/livez").headers
                server.handle_exit(signal.SIGTERM, None)
                assert timer.set.wait(LIMIT_S)
                assert timer.delay_s == 5.0
                ready = client.get("/readyz")
                assert (ready.status_code, ready.json()["status"]) == (503, "draining")
                # Clients that keep connections open are asked to let go of this server.
                assert ready.headers["connection"] == "close"
                assert client.get("/livez").status_code == 200
                assert client.get("/metrics").status_code == 200
                assert client.post("/v1/rank", json=body()).status_code == 200
            assert thread.is_alive()
            timer.fire()
        finally:
            server.should_exit = True
            thread.join(LIMIT_S)
    assert not thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/readyz")


def test_a_signal_before_the_start_needs_no_drain(tmp_path: Path) -> None:
    service = World(tmp_path).service()
    server = DrainingServer(uvicorn.Config(create(service)), drain_s=5.0, on_drain=service.drain)
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    assert not service.is_draining


@pytest.mark.kafka
def test_after_sigterm_the_probe_fails_and_every_request_is_answered_and_delivered(
    tmp_path: Path, fresh_kafka: Broker
) -> None:
    World(tmp_path).go_live("base", 1)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    readiness: list[int] = []
    answers: list[httpx.Response] = []
    # The drain outlasts the test: the second signal ends it.
    with process(tmp_path, fresh_kafka, port, "--trust-event-ts", drain_s=3_600) as child:
        wait_ready(address)
        limit = time.monotonic() + LIMIT_S
        with httpx.Client(base_url=address, timeout=LIMIT_S) as client:
            child.send_signal(signal.SIGTERM)
            while readiness.count(503) < 20:
                assert time.monotonic() < limit, "the probe did not fail"
                readiness.append(client.get("/readyz").status_code)
                answers.append(client.post("/v1/rank", json=body(f"c-{len(answers)}", event_ts=START_MS)))
        child.send_signal(signal.SIGTERM)
        assert child.wait(LIMIT_S) == 0
    first = readiness.index(503)
    assert readiness == [200] * first + [503] * 20
    assert [answer.status_code for answer in answers] == [200] * len(readiness)
    found = [json.loads(answer.content) for answer in answers]
    assert {(answer["version"], answer["fallback"]) for answer in found} == {("1", None)}
    delivered = [
        msgspec.json.decode(record.value or b"", type=Impression) for record in read_to_end(fresh_kafka, IMPRESSIONS)
    ]
    assert sorted(one.event_id for one in delivered) == sorted(answer["impression_event_id"] for answer in found)


def test_connections_answer_without_delay() -> None:
    async def no_delay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def seen(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(
                writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            )
            writer.close()

        with listen("127.0.0.1", 0) as bound:
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
            listen("127.0.0.1", port)
