import asyncio
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest
from sqlalchemy import select

from serving.http import server as module
from serving.http.listening import listen
from serving.http.server import server_of
from serving.settings import ServingSettings
from stream import db
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas.events import Impression
from stream.schemas.topics import IMPRESSIONS
from tests.serving.live import LIMIT_S, wait_ready, wait_until
from tests.serving.process import free_port, process
from tests.serving.world import START_MS, World, body
from trainer.rollout.tables import servers


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
    service = World(tmp_path).service(ServingSettings(deadline_ms=60_000.0))
    timer = Timer()
    server = server_of(service, call_later=timer)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
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


def test_the_reports_are_named_after_host_and_the_port_that_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    service = world.service(ServingSettings(port=0))
    taken: list[int] = []

    class Server:
        """A server that polls once instead of answering."""

        def run(self, sockets: list[socket.socket]) -> None:
            taken.append(sockets[0].getsockname()[1])
            service.poll()

    monkeypatch.setattr(module, "server_of", lambda _: Server())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    module.serve(service)
    with db.read(world.engine) as connection:
        names = connection.execute(select(servers.c.name)).scalars().all()
    assert names == [f"{socket.gethostname()}:{taken[0]}"]


def test_a_signal_before_the_start_needs_no_drain(tmp_path: Path) -> None:
    service = World(tmp_path).service()
    server = server_of(service)
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


@pytest.mark.slow
def test_v8_idle_and_slow_clients_do_not_keep_others_out(tmp_path: Path) -> None:
    World(tmp_path).go_live("base", 1)
    port, absent = free_port(), Broker(bootstrap=f"127.0.0.1:{free_port()}")
    address, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    started = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    # Long enough for a slow machine to open all connections before the first one is due.
    settings = {"headers_timeout_s": 6.0, "body_timeout_s": 6.0}
    with process(tmp_path, absent, port, settings=settings, num_files=1_024, log=log) as child, ExitStack() as stack:
        wait_ready(address)
        with httpx.Client(base_url=address, timeout=LIMIT_S) as kept:
            assert kept.post("/v1/rank", json=body()).status_code == 200
            silent = [b""] * 1_100 + [started] * 300 + [started + b"Content-Length: 100\r\n\r\n{"] * 300
            held = []
            for sent in silent:
                held.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)))
                held[-1].sendall(sent)
            for _ in range(20):
                assert kept.get("/readyz").status_code == 200
                assert kept.post("/v1/rank", json=body()).json()["fallback"] is None
                # New clients get in as well.
                assert httpx.get(f"{address}/readyz", timeout=LIMIT_S).status_code == 200
                assert httpx.post(f"{address}/v1/rank", json=body(), timeout=LIMIT_S).status_code == 200
            # At last every one of the others is closed by the server.
            wait_until(lambda: all(map(_is_closed, held)))
            assert kept.get("/readyz").status_code == 200
            closed = re.search(r'closed_connections_total\{reason="room"\} (\S+)', kept.get("/metrics").text)
            # Of 1,700 connections 768 fit into 1,024 descriptors.
            assert closed is not None
            assert float(closed[1]) > 0
        child.send_signal(signal.SIGTERM)
        assert child.wait(LIMIT_S) == 0
    logged = log.read_text()
    assert "Traceback" not in logged
    assert len(logged.splitlines()) < 30


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        while client.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


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
