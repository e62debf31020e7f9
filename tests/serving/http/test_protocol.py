import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.http.connections import ConnectionLimits, Connections, Phase
from serving.http.edge import Edge
from serving.http.protocol import MAX_HEADER_BYTES, Guard, GuardedProtocol
from serving.metrics import CLOSINGS, Metrics
from serving.ranking.service import Service
from serving.settings import ServingSettings
from serving.tokens import sha256_of
from tests.serving.live import LIMIT_S, live, wait_until
from tests.serving.world import StubScorer, World, answering, body

HEADERS = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


class Recorded:
    """A connection that records how it was closed: in which phase, or None at once."""

    def __init__(self) -> None:
        self.ended: list[Phase | None] = []

    def end(self, phase: Phase) -> None:
        self.ended.append(phase)

    def abort(self) -> None:
        self.ended.append(None)


@contextmanager
def serving(tmp_path: Path, **changes: Any) -> Iterator[tuple[Service, str]]:
    service = World(tmp_path).service(ServingSettings(deadline_ms=60_000.0, **changes))
    with live(service) as address:
        yield service, address


def connect(address: str, sent: bytes = b"") -> socket.socket:
    url = httpx.URL(address)
    made = socket.create_connection((url.host, url.port or 0), timeout=LIMIT_S)
    made.sendall(sent)
    return made


def answer(sent: socket.socket) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    found = b""
    with suppress(ConnectionResetError):
        while more := sent.recv(65_536):
            found += more
    return found


def closed(service: Service) -> dict[str, float]:
    name = "shelfwise_serving_closed_connections_total"
    values = {reason: service.metrics.registry.get_sample_value(name, {"reason": reason}) or 0 for reason in CLOSINGS}
    return {reason: value for reason, value in values.items() if value}


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"", b"", "headers"),
        (b"P", b"408", "headers"),
        (HEADERS, b"408", "headers"),
        (HEADERS + b"\r\n", b"408", "body"),
        (HEADERS + b"\r\n{", b"408", "body"),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200", "idle"),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n\r\n", b"200", "idle"),
        # Answered before its body is complete: the rest has the deadline of a body.
        (HEADERS.replace(b"rank", b"none") + b"\r\n", b"404", "body"),
    ],
)
def test_a_connection_without_a_complete_request_is_closed(
    tmp_path: Path, sent: bytes, status: bytes, reason: str
) -> None:
    with serving(tmp_path, headers_timeout_s=0.3, body_timeout_s=0.3, keep_alive_s=0.3) as (service, address):
        with connect(address, sent) as client:
            found = answer(client)
        assert found[9:12] == status
        # The probe's own connection may have been idle as well.
        assert closed(service)[reason] >= 1


def test_a_request_without_its_body_does_not_count_as_ahead_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, body_timeout_s=0.3) as (service, address):
        arrivals: list[float] = []
        monkeypatch.setattr(service, "gave_up", arrivals.append)
        content = json.dumps(body()).encode()
        head = HEADERS.replace(b"100", str(len(content)).encode()) + b"Connection: close\r\n\r\n"
        with connect(address, head + content) as client:
            assert answer(client)[9:12] == b"200"
        assert arrivals == [], "it came whole"
        with connect(address, head + content[:-1]) as client:
            wait_until(lambda: len(arrivals) == 1)
            client.sendall(content[-1:])
            assert answer(client)[9:12] == b"200"
        assert len(arrivals) == 1
        with connect(address, HEADERS.replace(b"rank", b"events") + b"\r\n{") as client:
            answer(client)
        assert len(arrivals) == 1, "only rank requests count"


def test_bytes_now_and_then_extend_no_deadline(tmp_path: Path) -> None:
    with serving(tmp_path, headers_timeout_s=0.5) as (_, address), connect(address, b"GET / HTTP/1.1\r\n") as client:
        client.settimeout(0.1)
        found = b""
        while True:
            try:
                client.sendall(b"a: b\r\n")
                more = client.recv(65_536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not more:
                break
            found += more
        assert found[9:12] in {b"408", b""}


def test_a_client_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving(tmp_path, write_timeout_s=0.3) as (service, address):
        with connect(address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.settimeout(0.2)
            # Answers fill the buffers of both sides.
            with suppress(OSError):
                for _ in range(100_000):
                    client.sendall(asked * 100)
            wait_until(lambda: closed(service).get("unread") == 1)
        assert httpx.get(f"{address}/livez").status_code == 200


def test_large_headers_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as (service, address):
        with connect(address, b"GET /livez HTTP/1.1\r\nx: " + b"a" * (MAX_HEADER_BYTES + 1)) as client:
            assert answer(client)[9:12] in {b"431", b""}
        assert closed(service) == {"large": 1}


def test_bytes_that_are_no_request_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as (service, address):
        with connect(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n") as client:
            assert answer(client)[9:12] == b"400"
        assert closed(service) == {"invalid": 1}


def test_at_the_limit_connections_without_a_request_make_room(tmp_path: Path) -> None:
    with serving(tmp_path, max_connections=10) as (service, address), ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(address))
        with httpx.Client(base_url=address, timeout=LIMIT_S) as client:
            assert client.get("/readyz").status_code == 200
            assert client.post("/v1/rank", json=body()).status_code == 200
        assert closed(service)["room"] >= 40
        assert service.metrics.registry.get_sample_value("shelfwise_serving_connections") in {9, 10}


def test_when_every_connection_is_being_answered_a_new_one_is_closed() -> None:
    metrics, now = Metrics(), [0.0]
    guard = Guard(Connections(ConnectionLimits(num=1, seconds={Phase.BODY: 2.0})), metrics, lambda: now[0])
    first, second = Recorded(), Recorded()
    guard.opened(first)
    guard.entered(first, Phase.ANSWER)
    guard.opened(second)
    assert (first.ended, second.ended) == ([], [None])
    guard.entered(first, Phase.BODY)
    now[0] = 2.5
    guard.sweep()
    guard.sweep()
    assert first.ended == [Phase.BODY]
    values = {reason: metrics.closed_connections.labels(reason)._value.get() for reason in CLOSINGS}
    assert {k: v for k, v in values.items() if v} == {"full": 1, "body": 1}


def test_a_client_that_leaves_early_is_no_error_of_the_service(tmp_path: Path) -> None:
    with serving(tmp_path) as (service, address):
        connect(address, HEADERS + b"\r\n{").close()

        def refused(status: str) -> float | None:
            return service.metrics.registry.get_sample_value("shelfwise_serving_refused_total", {"status": status})

        wait_until(lambda: refused("408") == 1)
        assert refused("500") is None


def test_a_client_that_leaves_while_a_further_request_waits_is_no_error_of_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = threading.Event()

    def slow(num: int) -> list[float]:
        assert left.wait(LIMIT_S)
        return [1.0] * num

    service = World(tmp_path).service(ServingSettings(default_lineage="base", deadline_ms=60_000.0))
    service.versions.use(answering("base", StubScorer(slow)))
    sent = json.dumps(body()).encode()
    with live(service) as address:

        def sample(name: str, **labels: str) -> float | None:
            return service.metrics.registry.get_sample_value(f"shelfwise_serving_{name}", labels)

        client = connect(address, HEADERS.replace(b"100", b"%d" % len(sent)) + b"\r\n" + sent + LIVE)
        wait_until(lambda: sample("connections") == 1)
        client.close()
        wait_until(lambda: sample("connections") == 0)
        left.set()
        wait_until(lambda: sample("requests_total", arm="none", fallback="none") == 1)
    assert [each.getMessage() for each in caplog.records if each.name.startswith("uvicorn")] == []


OFFER = (
    b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n"
)


def test_an_offer_of_another_protocol_is_passed_over(tmp_path: Path) -> None:
    """Java's HTTP client offers HTTP/2 with the first request on each connection."""
    content = json.dumps(body()).encode()
    whole = OFFER + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
    chunked = OFFER + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    bare = LIVE.replace(b"Connection: close", b"Upgrade: websocket\r\nConnection: upgrade")
    with serving(tmp_path) as (_, address):
        for sent, num, size in (
            (whole + bare + chunked + whole + LIVE, 5, 1_000_000),
            (whole + bare + chunked + whole + LIVE, 5, 333),
            (bare * 1_500 + LIVE, 1_501, 1_000_000),
        ):
            with connect(address) as client:
                for start in range(0, len(sent), size):
                    client.sendall(sent[start : start + size])
                found = answer(client)
            assert statuses(found) == [b"200"] * num
            assert found.count(b'"query_id"') == sent.count(b'"query_id"')


REFUSED = b"POST /v1/rank HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def statuses(content: bytes) -> list[bytes]:
    return [part.split(b" ", 1)[0] for part in content.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    "packets", [[REFUSED + b"{}" + LIVE], [REFUSED, b"{", b"}" + LIVE], [REFUSED + b"{", b"}", LIVE]]
)
def test_a_connection_outlives_a_refused_request(tmp_path: Path, packets: list[bytes]) -> None:
    with serving(tmp_path) as (service, address), connect(address) as client:
        for packet in packets:
            client.sendall(packet)
        found = answer(client)
    assert statuses(found) == [b"421", b"200"]
    head, _, rest = found.partition(b"\r\n\r\n")
    assert b"\r\nx-request-id: " in head
    assert f"content-length: {len(rest.partition(b'HTTP/1.1 ')[0])}".encode() in head
    assert service.metrics.registry.get_sample_value("shelfwise_serving_refused_total", {"status": "421"}) == 1


@pytest.mark.parametrize("first", [b"", LIVE.replace(b"Connection: close\r\n", b"")])
def test_many_refused_requests_in_one_packet_are_answered_in_order(tmp_path: Path, first: bytes) -> None:
    refused = b"POST / HTTP/1.1\r\n\r\n"
    with serving(tmp_path) as (_, address), connect(address, first + 1_500 * refused + LIVE) as client:
        found = statuses(answer(client))
    assert found == [b"200"] * bool(first) + [b"400"] * 1_500 + [b"200"]


class Wire(asyncio.Transport):
    """The server's side of a connection: what was written, and whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_read = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def is_closing(self) -> bool:
        return False


async def answered(app: Any, sent: bytes, service: Service) -> AsyncIterator[tuple[int, Wire, GuardedProtocol]]:
    """Give a connection of an application these bytes in one packet, and yield the answers after each turn."""
    guard = Guard(Connections(ConnectionLimits(num=1, seconds={})), service.metrics, service.clock)
    config = uvicorn.Config(app, log_config=None)
    config.load()
    made = GuardedProtocol(
        guard=guard, edge=Edge(app, service), config=config, server_state=ServerState(), app_state={}
    )
    wire = Wire()
    made.connection_made(wire)
    made.data_received(sent)
    while True:
        yield wire.written.count(b"HTTP/1.1 "), wire, made
        await asyncio.sleep(0)


async def empty_answer(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("one", [b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"])
def test_requests_of_one_packet_wait_unparsed_and_take_turns(tmp_path: Path, one: bytes) -> None:
    """A parsed request takes fifty times its bytes, and other connections wait for the turn of the loop."""
    num = 3_000

    async def run() -> None:
        before, most_waiting = 0, 0
        async for now, wire, made in answered(empty_answer, one * num, World(tmp_path).service()):
            assert now - before <= 2, "answers of one turn"
            most_waiting = max(most_waiting, len(made.pipeline))
            assert wire.is_read or now < num
            if now == num and wire.is_read:
                break
            before = now
        assert 0 < most_waiting < num / 10

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


def test_while_a_request_is_answered_no_more_than_a_piece_behind_it_is_parsed(tmp_path: Path) -> None:
    async def never(_scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        one, num_turns = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 0
        async for _, wire, made in answered(never, one * 3_000, World(tmp_path).service()):
            num_turns += 1
            if num_turns == 3_000:
                assert not wire.is_read
                assert 0 < len(made.pipeline) < 300
                return

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


def test_a_body_in_one_packet_is_read_in_one_turn(tmp_path: Path) -> None:
    found = []

    async def reading(_scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["more_body"]:
            found.append(len(message["body"]))
        found.append(len(message["body"]))
        await empty_answer(None, None, send)

    async def run() -> None:
        head = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n" + JSON_BODY + b"Content-Length: 60000\r\n\r\n"
        async for now, _, _ in answered(reading, head + b" " * 60_000, World(tmp_path).service()):
            if now:
                return

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    assert sum(found) == 60_000
    assert len(found) <= 2


JSON_BODY = b"Content-Type: application/json\r\n"
CHUNKED = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\n" + JSON_BODY + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "endless",
    [
        b"0\r\nx: " + b"a" * MAX_HEADER_BYTES,
        b"0\r\n" + b"x: a\r\n" * (MAX_HEADER_BYTES // 6),
        b"2;" + b"a" * MAX_HEADER_BYTES,
    ],
    ids=["a trailer", "trailers", "an extension of a chunk"],
)
def test_what_is_neither_headers_nor_content_of_a_body_is_limited_like_headers(tmp_path: Path, endless: bytes) -> None:
    sent = CHUNKED + b"2\r\n{}\r\n" + endless
    with serving(tmp_path, body_timeout_s=LIMIT_S) as (service, address):
        with connect(address, sent) as client:
            client.sendall(b"a" * 20_000)
            assert answer(client)[9:12] in {b"431", b""}
        assert closed(service) == {"large": 1}


def test_many_small_chunks_are_a_body(tmp_path: Path) -> None:
    content = json.dumps(body(num_candidates=500)).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content)
    assert len(chunks) > MAX_HEADER_BYTES
    with serving(tmp_path) as (_, address), connect(address, CHUNKED + chunks + b"0\r\nx: a\r\n\r\n" + LIVE) as client:
        assert statuses(answer(client)) == [b"200", b"200"]


@pytest.mark.parametrize(
    "request_", [REFUSED.replace(b"Host", b"Connection: close\r\nHost"), REFUSED.replace(b"1.1", b"1.0")]
)
def test_a_refusal_closes_a_connection_that_the_client_does_not_keep(tmp_path: Path, request_: bytes) -> None:
    with serving(tmp_path) as (_, address), connect(address, request_) as client:
        found = answer(client)
    assert statuses(found) == [b"421"]
    assert b"\r\nconnection: close\r\n" in found


def test_a_refused_request_whose_body_does_not_come_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path, body_timeout_s=0.3) as (service, address), connect(address, REFUSED) as client:
        assert statuses(answer(client)) == [b"421"]
        wait_until(lambda: closed(service) == {"body": 1})


def test_a_token_pays_once_for_a_request(tmp_path: Path) -> None:
    settings = {"tokens": f"score:{sha256_of(b't').hex()}", "caller_rate": 0.001, "caller_burst": 2}
    with serving(tmp_path, **settings) as (_, address), httpx.Client(base_url=address) as client:
        headers = {"Authorization": "Bearer t", "Content-Type": "application/json"}
        answers = [client.post("/v1/rank", content=b"{", headers=headers) for _ in range(3)]
    assert [each.status_code for each in answers] == [400, 400, 429]
