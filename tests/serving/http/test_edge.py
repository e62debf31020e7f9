import asyncio
import io
import json
import logging
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient

from serving.http.app import create
from serving.http.edge import App, Edge
from serving.ranking.service import Service, System
from serving.settings import ServingSettings
from serving.tokens import sha256_of
from stream import logs
from tests.serving.world import START_MS, StubScorer, World, answering, body


def fail(num: int) -> Sequence[float]:
    raise RuntimeError(f"no scores for {num} items")


class Clock:
    """Seconds that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def service_at(tmp_path: Path, clock: Clock, deadline_ms: float = 30.0) -> Service:
    system = System(clock=clock, now_ms=lambda: START_MS, random_bytes=bytes, random=lambda: 0.0)
    settings = ServingSettings(default_lineage="base", deadline_ms=deadline_ms)
    service = World(tmp_path).service(settings, system=system)
    service.poll()
    return service


def ask(
    service: Service,
    arrival_s: float,
    *,
    path: str = "/v1/rank",
    content: bytes = b"{",
    headers: Sequence[tuple[bytes, bytes]] = ((b"host", b"localhost"), (b"content-type", b"application/json")),
    sent: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return status, headers and body of a request that arrived at `arrival_s`, and whether its body was read."""
    found: dict[str, Any] = {"is_read": False, "body": b""}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
        "http_version": "1.1",
        "state": {},
        "extensions": {"shelfwise": {"arrival_s": arrival_s}},
    }

    async def receive() -> dict[str, Any]:
        found["is_read"] = True
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            found["status"] = message["status"]
            found["headers"] = dict(message["headers"])
        else:
            found["body"] += message.get("body", b"")
            sent()

    asyncio.run(Edge(create(service), service)(scope, receive, send))
    return found


def count(service: Service, name: str, **labels: str) -> float:
    return service.metrics.registry.get_sample_value(f"shelfwise_serving_{name}", labels) or 0.0


def test_a_request_that_is_too_old_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    clock = Clock()
    service = service_at(tmp_path, clock)
    clock.now_s = 100.028
    found = ask(service, 100.0)
    assert (found["status"], found["headers"][b"retry-after"], found["is_read"]) == (503, b"1", False)
    assert b"overloaded" in found["body"]
    assert uuid.UUID(found["headers"][b"x-request-id"].decode()).version == 7
    assert count(service, "refused_total", status="503") == count(service, "shed_total", answer="refusal") == 1


def test_a_request_in_time_is_decoded(tmp_path: Path) -> None:
    clock = Clock()
    service = service_at(tmp_path, clock)
    clock.now_s = 100.026
    found = ask(service, 100.0)
    assert (found["status"], found["is_read"]) == (400, True)
    assert count(service, "shed_total", answer="refusal") == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"host", b"localhost"), (b"content-type", b"Application/JSON; charset=utf-8")], 400),
        ([(b"host", b"localhost"), (b"content-type", b"text/plain")], 415),
        ([(b"host", b"localhost")], 415),
        ([(b"host", b"shop.example"), (b"content-type", b"application/json")], 400),
        ([(b"host", b"evil.example"), (b"content-type", b"application/json")], 421),
        ([(b"content-type", b"application/json")], 400),
    ],
)
def test_requests_of_web_pages_are_refused_before_their_body_is_read(
    tmp_path: Path, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    service = World(tmp_path).service(ServingSettings(allowed_hosts="shop.example,other.example", deadline_ms=60_000.0))
    found = ask(service, service.clock(), path="/v1/events", content=b"[", headers=headers)
    assert found["status"] == status
    assert found["is_read"] == (dict(headers).get(b"host") in {b"localhost", b"shop.example"} and status == 400)
    if status == 415:
        assert found["headers"][b"accept"] == b"application/json"


@pytest.mark.parametrize(
    ("authorization", "status"), [([], 401), ([b"x"], 401), ([b"Bearer t"], 400), ([b"Bearer t", b"Bearer t"], 401)]
)
def test_who_may_not_call_is_refused_before_the_body_is_read(
    tmp_path: Path, authorization: list[bytes], status: int
) -> None:
    settings = ServingSettings(tokens=f"collect:{sha256_of(b't').hex()}", deadline_ms=60_000.0)
    service = World(tmp_path).service(settings)
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    headers += [(b"authorization", value) for value in authorization]
    found = ask(service, service.clock(), path="/v1/events", content=b"[", headers=headers)
    assert (found["status"], found["is_read"]) == (status, status == 400)
    assert count(service, "refused_total", status=str(status)) == 1
    if status == 401:
        assert json.loads(found["body"])["error"] == "expected one Authorization header with a bearer token"
        assert found["headers"][b"www-authenticate"] == b"Bearer"
    wrong = ask(service, service.clock(), headers=[*headers[:2], (b"authorization", b"Bearer t")])
    assert (wrong["status"], wrong["is_read"]) == (403, False)


def test_a_token_beyond_its_rate_is_refused_until_the_clock_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    settings = ServingSettings(tokens=f"score:{sha256_of(b't').hex()}", caller_rate=0.5, caller_burst=2)
    system = System(clock=clock, now_ms=lambda: START_MS, random_bytes=bytes, random=lambda: 0.0)
    service = World(tmp_path).service(settings, system=system)
    service.poll()
    edge: App = Edge(create(service), service)
    headers = {"Authorization": "Bearer t", "Content-Type": "application/json"}
    with TestClient(edge, base_url="http://app.localhost") as client:
        answers = [client.post("/v1/rank", content=b"{", headers=headers) for _ in range(3)]
        clock.now_s += 2.0
        later = client.post("/v1/rank", content=b"{", headers=headers)
    assert [answer.status_code for answer in answers] == [400, 400, 429]
    assert (answers[2].headers["Retry-After"], later.status_code) == ("2", 400)


def test_other_routes_are_never_shed(tmp_path: Path) -> None:
    clock = Clock()
    service = service_at(tmp_path, clock)
    clock.now_s = 200.0
    assert ask(service, 100.0, path="/v1/events", content=b"[")["status"] == 400


def test_the_latency_counts_from_the_arrival_at_the_socket_to_the_written_answer(tmp_path: Path) -> None:
    clock = Clock()
    service = service_at(tmp_path, clock)
    service.versions.use(answering("base", StubScorer()))
    clock.now_s = 100.02

    def sent() -> None:
        clock.now_s = 100.025

    service.start()
    try:
        found = ask(service, 100.0, content=json.dumps(body()).encode(), sent=sent)
    finally:
        service.stop()
    assert found["status"] == 200
    assert json.loads(found["body"])["latency_us"] == pytest.approx(20_000, abs=1)
    assert count(service, "latency_seconds_sum", arm="none") == pytest.approx(0.025)
    assert count(service, "latency_seconds_count", arm="none") == 1


def test_requests_whose_body_is_not_valid_keep_no_others_out(tmp_path: Path) -> None:
    clock = Clock()
    service = service_at(tmp_path, clock, deadline_ms=60_000.0)

    def slow(num: int) -> list[float]:
        # Of lists that take so long, two end in time.
        clock.now_s += 20.0
        return [1.0] * num

    service.versions.use(answering("base", StubScorer(slow)))
    service.start()
    try:
        scored = [ask(service, clock.now_s, content=json.dumps(body()).encode())]
        refused = [ask(service, clock.now_s) for _ in range(100)]
        scored.append(ask(service, clock.now_s, content=json.dumps(body()).encode()))
    finally:
        service.stop()
    assert {found["status"] for found in refused} == {400}
    assert [json.loads(found["body"])["fallback"] for found in scored] == [None, None]


def test_log_lines_of_a_request_carry_its_id(tmp_path: Path) -> None:
    service = World(tmp_path).service(ServingSettings(default_lineage="bad", deadline_ms=60_000.0))
    service.poll()
    service.versions.use(answering("bad", StubScorer(fail)))
    edge: App = Edge(create(service), service)
    root, lines = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    logs.configure(logs.LoggingSettings(format="json"), lines)
    try:
        with TestClient(edge, base_url="http://app.localhost") as client:
            answer = client.post("/v1/rank", json=body(), headers={"X-Request-ID": "r-1"})
            other = client.post("/v1/rank", json=body(), headers={"X-Request-ID": "no spaces"})
    finally:
        root.handlers = handlers
        root.setLevel(level)
    assert (answer.headers["X-Request-ID"], answer.json()["fallback"]) == ("r-1", "error")
    assert uuid.UUID(other.headers["X-Request-ID"]).version == 7
    logged = [json.loads(line) for line in lines.getvalue().splitlines()]
    failed = [line["request_id"] for line in logged if line["event"] == "a list could not be scored"]
    assert failed == ["r-1", other.headers["X-Request-ID"]]
