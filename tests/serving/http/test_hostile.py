"""Requests of a hostile or broken client over a real socket: each is refused or answered, none is an error."""

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from serving.ranking.service import Service
from serving.settings import ServingSettings
from tests.serving.live import LIMIT_S, live
from tests.serving.world import World, body

JSON = "Content-Type: application/json\r\n"
CLOSED = 0


def post(
    content: bytes,
    *,
    path: str = "/v1/rank",
    host: str = "Host: localhost\r\n",
    headers: str = JSON,
    length: bool = True,
) -> bytes:
    stated = f"Content-Length: {len(content)}\r\n" if length else ""
    return f"POST {path} HTTP/1.1\r\n{host}{headers}{stated}Connection: close\r\n\r\n".encode() + content


def rank(**changes: Any) -> bytes:
    return post(json.dumps(body(**changes)).encode())


def everywhere(text: str) -> bytes:
    """Return a valid request with a text in each field that holds one of the client's or the shop's."""
    query = {"text": text, "category": text, "page": 1, "total_hits": 200}
    return rank(client_id=text, session_id=text, query_id=text, query=query, candidates=[{"item_id": text}])


def raw(old: str, new: bytes) -> bytes:
    """Return a valid request in which a value is replaced by bytes."""
    text = json.dumps(body(query_id="q")).encode()
    assert old.encode() in text
    return post(text.replace(old.encode(), new, 1))


def event(**changes: Any) -> bytes:
    shown = {"object_id": ["a"], "rank_in": [1], "price_minor": [1], **changes.pop("items", {})}
    made = {"event_id": "e", "event_ts": 1, "client_id": "c", "source": "s", "query_id": "q", "query": {"hash": "h"}}
    content = json.dumps([{**made, "currency": "EUR", "items": shown, **changes}]).encode()
    return post(content, path="/v1/events")


def get(path: str, rest: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{rest}Connection: close\r\n\r\n".encode()


LEGAL = json.dumps(body(num_candidates=1_000)).encode()
PRICED = '"candidates": [{"item_id": "i-0"}'
REQUESTS: dict[str, tuple[bytes, set[int]]] = {
    "empty body": (post(b""), {400}),
    "empty object": (post(b"{}"), {400}),
    "null": (post(b"null"), {400}),
    "a number": (post(b"1"), {400}),
    "a string": (post(b'"x"'), {400}),
    "no candidates": (rank(candidates=[]), {400}),
    "1,001 candidates": (rank(num_candidates=1_001), {400}),
    "duplicate ids": (rank(candidates=[{"item_id": "a"}, {"item_id": "a"}]), {400}),
    "empty client": (rank(client_id=""), {400}),
    "long client": (rank(client_id="c" * 129), {400}),
    "unknown field": (rank(surprise=1), {400}),
    "NaN": (rank(event_ts=float("nan")), {400}),
    "infinity": (rank(event_ts=float("inf")), {400}),
    "1e308": (raw('"page": 1', b'"page": 1e308'), {400}),
    "1.0": (raw('"page": 1', b'"page": 1.0'), {400}),
    "a fraction": (raw('"page": 1', b'"page": 1.5'), {400}),
    "true for a number": (raw('"page": 1', b'"page": true'), {400}),
    "above 2^53": (raw(PRICED, PRICED[:-1].encode() + b', "price_minor": 9007199254740993}'), {400}),
    "5,000 digits": (raw(PRICED, PRICED[:-1].encode() + b', "price_minor": ' + b"9" * 5_000 + b"}"), {400}),
    "negative price": (raw(PRICED, PRICED[:-1].encode() + b', "price_minor": -1}'), {400}),
    "byte order mark": (post(b"\xef\xbb\xbf" + json.dumps(body()).encode()), {400}),
    "UTF-16": (post(json.dumps(body()).encode("utf-16")), {400}),
    "bad UTF-8": (raw('"red shoes"', b'"\xff\xfe"'), {400}),
    "lone surrogate": (raw('"red shoes"', b'"\\ud800"'), {400}),
    "deep nesting": (post(b"[" * 100_000), {400}),
    "cut off": (post(json.dumps(body()).encode()[:-5]), {400}),
    "two documents": (post(json.dumps(body()).encode() * 2), {400}),
    "100,000 candidates": (rank(num_candidates=100_000), {413}),
    "10 MiB": (post(b" " * (10 << 20)), {413}),
    "10 GB announced": (post(b"{", length=False, headers=JSON + "Content-Length: 10000000000\r\n"), {413}),
    "1 MiB in chunks": (
        post(b"10000\r\n" + b" " * 65_536 + b"\r\n" + b"10000\r\n" + b" " * 65_536 + b"\r\n", length=False)
        .replace(b"Connection", b"Transfer-Encoding: chunked\r\nConnection", 1)
        .replace(b"\r\n\r\n", b"\r\n\r\n" + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 14, 1),
        {413},
    ),
    "bad chunk": (post(b"xyz\r\n", length=False, headers=JSON + "Transfer-Encoding: chunked\r\n"), {400}),
    "length and chunks": (post(b"0\r\n\r\n", headers=JSON + "Transfer-Encoding: chunked\r\n"), {400}),
    "two lengths": (post(b"{}", headers=JSON + "Content-Length: 3\r\n"), {400}),
    "negative length": (post(b"", length=False, headers=JSON + "Content-Length: -1\r\n"), {400}),
    "length is no number": (post(b"", length=False, headers=JSON + "Content-Length: 1x\r\n"), {400}),
    "gzip bomb": (post(gzip.compress(b" " * (5 << 20)), headers=JSON + "Content-Encoding: gzip\r\n"), {413}),
    "damaged gzip": (post(b"\x1f\x8b123", headers=JSON + "Content-Encoding: gzip\r\n"), {400}),
    "unknown coding": (post(b"{}", headers=JSON + "Content-Encoding: br\r\n"), {415}),
    "1 MiB of headers": (get("/livez", f"x: {'a' * (1 << 20)}\r\n"), {431, CLOSED}),
    "many headers": (get("/livez", "".join(f"x{number}: a\r\n" for number in range(20_000))), {431, CLOSED}),
    "header without colon": (get("/livez", "bad\r\n"), {400}),
    "zero byte in a header": (get("/livez", "x: a\0b\r\n"), {400}),
    "space before the colon": (get("/livez", "Content-Length : 5\r\n"), {400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n", {400}),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
    "HTTP/0.9": (b"GET /livez\r\n\r\n", {400}),
    "garbage": (bytes(range(256)) + b"\r\n\r\n", {400}),
    "path traversal": (get("/../../etc/passwd"), {404}),
    "encoded traversal": (get("/%2e%2e/%2e%2e/etc/passwd"), {404}),
    "encoded slash": (get("/v1%2frank"), {404}),
    "encoded byte": (post(json.dumps(body()).encode(), path="/v1/%72ank"), {404}),
    "encoded byte of an open path": (get("/%6civez"), {404}),
    "encoded byte before an experiment": (get("/%65xperiments/e"), {404}),
    "encoded byte of an experiment": (get("/experiments/%65"), {404, 503}),
    "non-ASCII path": (get("/\xe9"), {400, 404}),
    "long path": (get("/" + "a" * 8_000), {404}),
    "TRACE": (get("/livez", method="TRACE"), {404, 405}),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", {400, 421}),
    "OPTIONS *": (get("*", method="OPTIONS"), {400, 404}),
    "unknown method": (get("/livez", method="BREW"), {400}),
    "WebSocket": (
        get(
            "/v1/rank",
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        ).replace(b"Connection: close", b"Connection: Upgrade, close", 1),
        {405},
    ),
    "injection by format": (post(b"[]", path="/v1/events?format=%0d%0aSet-Cookie:%20a=b"), {400}),
    "plain text": (post(b"{}", headers="Content-Type: text/plain\r\n"), {415}),
    "a form": (post(b"a=b", headers="Content-Type: application/x-www-form-urlencoded\r\n"), {415}),
    "no content type": (post(b"{}", headers=""), {415}),
    "two content types": (post(b"{}", headers=JSON + "Content-Type: text/plain\r\n"), {415}),
    "annotations as text": (post(b"{}", path="/v1/annotations", headers="Content-Type: text/plain\r\n"), {415}),
    "events as text": (post(b"[]", path="/v1/events", headers="Content-Type: text/plain\r\n"), {415}),
    "foreign host": (post(b"{}", host="Host: evil.example\r\n"), {421}),
    "no host": (post(b"{}", host=""), {400}),
    "two hosts": (post(b"{}", host="Host: localhost\r\nHost: evil.example\r\n"), {400}),
    "user in the host": (post(b"{}", host="Host: localhost@evil.example\r\n"), {400}),
    "absolute target": (get("http://evil.example/livez").replace(b"Host: localhost", b"Host: evil.example"), {421}),
    "absolute target of another host": (get("http://evil.example/livez"), {421}),
    "absolute target with a user": (get("http://a@localhost/livez"), {400}),
    "absolute target of this host": (get("http://localhost/livez").replace(b"Host: localhost", b"Host: x"), {200}),
    "absolute target without a path": (get("http://localhost"), {400}),
    "another spelling": (post(json.dumps(body()).encode(), path="/v1/rank/"), {404}),
    "line break after a currency": (rank(currency="EUR\n"), {400}),
    "line break after a type": (rank(candidates=[{"item_id": "a", "type": "a\n"}]), {400}),
    "forged assignment": (
        event(assignment=[{"layer": "ranker", "experiment": "e", "arm": "b", "epoch": 1, "bucket": 1}]),
        {422},
    ),
    "forged version": (event(lineage="armmt", version="999"), {422}),
    "forged features": (event(features={"schema": "0" * 64}), {422}),
    "forged propensity": (event(items={"propensity": [1e-6]}), {422}),
    "SQL in texts": (everywhere("'; DROP TABLE facts; --"), {200}),
    "NUL in texts": (everywhere("a\0b"), {200}),
    "CR LF ESC in texts": (everywhere("a\r\nx: y\x1b[2J"), {200}),
    "right-to-left marks": (everywhere("\u202ea"), {200}),
    "1,000 candidates": (post(LEGAL), {200}),
}


@dataclass(frozen=True)
class Serving:
    service: Service
    host: str
    port: int
    client: httpx.Client


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    service = World(tmp_path_factory.mktemp("hostile")).service(ServingSettings(deadline_ms=60_000.0))
    with live(service) as address:
        url = httpx.URL(address)
        # A client of its own would read the certificates of the machine for each request.
        with httpx.Client(base_url=address, timeout=LIMIT_S) as client:
            yield Serving(service, url.host, url.port or 0, client)


def ask(serving: Serving, sent: bytes) -> tuple[int, bytes]:
    """Return the status and everything that was answered; `CLOSED` if the connection was closed without an answer."""
    found = b""
    with socket.create_connection((serving.host, serving.port), timeout=LIMIT_S) as client:
        # The server may answer and close before it has taken everything.
        with suppress(ConnectionError):
            client.sendall(sent)
        with suppress(ConnectionError):
            while more := client.recv(65_536):
                found += more
    return (int(found[9:12]) if found else CLOSED), found


@pytest.mark.parametrize("name", REQUESTS)
def test_a_hostile_request_is_refused_or_answered(serving: Serving, name: str) -> None:
    sent, expected = REQUESTS[name]
    status, answer = ask(serving, sent)
    assert status in expected, answer[:500]
    assert b"Set-Cookie" not in answer.partition(b"\r\n\r\n")[0]
    assert b"Traceback" not in answer
    errors = [
        sample
        for family in serving.service.metrics.refused.collect()
        for sample in family.samples
        if sample.labels.get("status", "").startswith("5")
    ]
    assert errors == []
    assert serving.client.get("/readyz").status_code == 200


def test_a_body_without_end_is_refused_after_its_limit(serving: Serving) -> None:
    """The server reads no more of 100 MiB than fits into its limit and the buffers of the kernel."""
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    head = post(b"", length=False, headers=JSON + "Transfer-Encoding: chunked\r\n")
    answer, sent = b"", 0
    with socket.create_connection((serving.host, serving.port), timeout=LIMIT_S) as client:
        client.sendall(head)
        with suppress(ConnectionError):
            while sent < 100 << 20:
                client.sendall(chunk)
                sent += len(chunk)
        with suppress(ConnectionError):
            answer = client.recv(65_536)
    assert sent < 50 << 20
    assert answer[9:12] in {b"413", b""}
    assert serving.client.get("/readyz").status_code == 200


def test_there_are_fifty_hostile_requests() -> None:
    assert len(REQUESTS) >= 50


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/annotate", "/v1/rank", "/nothing"])
def test_head_is_answered_as_get_without_a_body(serving: Serving, path: str) -> None:
    """Load balancers probe with it (RFC 9110, section 9.1: every server supports GET and HEAD)."""
    got, asked = serving.client.get(path), serving.client.head(path)
    assert (asked.status_code, asked.content) == (got.status_code, b"")
    assert asked.headers["Content-Type"] == got.headers["Content-Type"]
    assert int(asked.headers["Content-Length"]) > 0


def test_a_refused_smuggled_request_is_not_answered(serving: Serving) -> None:
    inner = get("/livez")
    status, answer = ask(serving, post(b"0\r\n\r\n" + inner, headers=JSON + "Transfer-Encoding: chunked\r\n"))
    assert (status, answer.count(b"HTTP/1.1")) == (400, 1)
