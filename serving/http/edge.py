"""The outermost layer of the application: request ids, refusals before the body is read, and the time of the client.

Who may call is asked before anything else but the host.

A browser sends `application/json` to another origin only after a preflight request, which no route answers: with the
check of the host, a web page of another origin posts to no route.

A rank request that can neither be scored in time nor answered in incoming order within the budget is answered with 503
here, before the framework sees it. The server asks for refusals as soon as the headers are there, without a task of the
event loop: under overload most requests are refused, and their time is taken from those that are scored.

The latency of a rank request counts from the first byte at the socket to the written answer, because the client waits
that long.

Source: ASGI 3.0, HTTP connection scope, `extensions`; Fetch Standard, CORS-safelisted request-header.
"""

import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from structlog.contextvars import bound_contextvars

from serving.http.access import Access, Denial
from serving.http.hosts import Hosts
from serving.http.openapi import EXPERIMENTS, JSON, RANK
from serving.http.rate_limit import RateLimit
from serving.ranking.service import Service
from stream.schemas.problems import Problem

# Servers and frameworks state different types for the same dictionaries.
Scope = Any
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[..., Coroutine[Any, Any, None]]
Headers = list[tuple[bytes, bytes]]

EXTENSION: Final = "shelfwise"
ARRIVAL: Final = "arrival_s"
"""Entry of the extension: reading of the service's clock when the first byte of the request arrived."""
RETRY_AFTER_S: Final = 1
_ADMITTED: Final = "is_admitted"

_ARM: Final = "shelfwise.arm"
_REQUEST_ID: Final = b"x-request-id"
_VALID_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_JSON: Final = JSON.encode()
_DENIALS: Final = {
    denial.status: denial
    for denial in (
        Denial(400, "expected one valid Host header"),
        Denial(415, "the Content-Type is not application/json", ((b"accept", _JSON),)),
        Denial(421, "the Host is none of serving.allowed_hosts"),
        Denial(
            503,
            "the service is overloaded; send the request again later",
            ((b"retry-after", str(RETRY_AFTER_S).encode()),),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """The whole answer to a refused request."""

    status: int
    headers: Headers
    body: bytes


def arrival_of(scope: Scope) -> float | None:
    """Return the reading of the clock when the request arrived; None if the server does not state it."""
    extensions = scope.get("extensions") or {}
    found: float | None = extensions.get(EXTENSION, {}).get(ARRIVAL)
    return found


def note_arm(scope: Scope, arm: str | None) -> None:
    """Note the arm of the client of a rank request, so that the time of its answer is counted there."""
    scope[_ARM] = arm


class Edge:
    """Checks of each request before the application of a service, and headers of its answers.

    Every answer carries `X-Request-ID`, the request's own if it has a valid one. Log lines of the request carry the id.
    """

    def __init__(self, app: App, service: Service) -> None:
        """Prepare the checks.

        Args:
            app: The application.
            service: The service that it answers for.
        """
        settings = service.settings
        self._app = app
        self._service = service
        self._hosts = Hosts([settings.host, *settings.allowed_hosts.split(",")])
        limit = RateLimit(settings.caller_rate, settings.caller_burst, service.clock)
        self._access = Access(lambda: service.tokens, limit, service.now_ms)

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return the answer to a request that is refused, and count it; None admits the request.

        Each request is checked once, by the server or by the application: the check of a token takes from its rate.

        Args:
            scope: The request; its extension notes that it was admitted.
        """
        extension = scope.setdefault("extensions", {}).setdefault(EXTENSION, {})
        if extension.get(_ADMITTED):
            return None
        denial = self._denial(scope, extension.setdefault(ARRIVAL, self._service.clock()))
        if denial is None:
            extension[_ADMITTED] = True
            return None
        self._service.metrics.refused.labels(str(denial.status)).inc()
        body = msgspec.json.encode(Problem(error=denial.error))
        length = (b"content-length", str(len(body)).encode())
        headers = [(b"content-type", _JSON), length, *denial.headers, *self._own_headers(self._request_id(scope))]
        return Refusal(denial.status, headers, body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is not None:
            await send({"type": "http.response.start", "status": refusal.status, "headers": refusal.headers})
            await send({"type": "http.response.body", "body": refusal.body})
            return
        arrival_s = scope["extensions"][EXTENSION][ARRIVAL]
        request_id = self._request_id(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._own_headers(request_id)]
            await send(message)
            if _ARM in scope and message["type"] == "http.response.body" and not message.get("more_body"):
                self._service.answered(scope[_ARM], arrival_s)

        # The server leaves out the body of an answer to HEAD; the framework knows GET alone.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            with bound_contextvars(request_id=request_id.decode()):
                await self._app(asked, receive, send_with_headers)
        finally:
            if _ARM not in scope:
                self.expect_no_more(scope)

    def expect_no_more(self, scope: Scope) -> None:
        """Let a rank request that was admitted count as ahead of others no more, until its body is there.

        Args:
            scope: Any request.
        """
        extension = scope.get("extensions", {}).get(EXTENSION, {})
        if extension.get(_ADMITTED) and (scope["method"], scope["path"]) == ("POST", RANK):
            self._service.gave_up(extension[ARRIVAL])

    def _denial(self, scope: Scope, arrival_s: float) -> Denial | None:
        if status := self._hosts.refusal(_values(scope, b"host")):
            return _DENIALS[status]
        if denial := self._access.denial(_spelled(scope), _values(scope, b"authorization")):
            return denial
        if scope["method"] != "POST":
            return None
        if _content_type(scope) != _JSON:
            return _DENIALS[415]
        return _DENIALS[503] if scope["path"] == RANK and self._service.refuses(arrival_s) else None

    def _own_headers(self, request_id: bytes) -> Headers:
        # Clients that keep connections open turn to another process before this one closes.
        closing = [(b"connection", b"close")] if self._service.is_draining else []
        return [(_REQUEST_ID, request_id), *closing]

    def _request_id(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == _REQUEST_ID and _VALID_ID.fullmatch(value):
                return bytes(value)
        return self._service.new_id().encode()


def _values(scope: Scope, header: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == header]


def _spelled(scope: Scope) -> str:
    """Return the path as the request spells it, but the key of an experiment decoded."""
    path: str = scope["path"]
    raw: bytes = scope.get("raw_path", b"")
    is_key = raw.startswith(f"{EXPERIMENTS}/".encode())
    return path if is_key or b"%" not in raw else raw.decode("latin-1")


def _content_type(scope: Scope) -> bytes:
    """Return the media type of the body without its parameters; empty if none or several are stated."""
    found = _values(scope, b"content-type")
    return found[0].partition(b";")[0].strip().lower() if len(found) == 1 else b""
