"""The HTTP edge: Litestar around `serving.ranking.service`; no other module imports the framework.

Handlers take and return raw bytes, which `serving.schemas` decodes, so that a refusal names the field and its value.

Source: docs/adr/0002-web-framework.md.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import ClientException, HTTPException, InternalServerException
from litestar.params import FromPath

from serving import metrics
from serving.annotation import NotOfferedError
from serving.experiments import NoPageError
from serving.http import annotation_page, edge, encodings, openapi
from serving.http.encodings import TooLargeError, UnknownEncodingError
from serving.outbox.collector import OWN_FORMAT, BusyError, TooManyError
from serving.outbox.stated import StatedError
from serving.ranking.service import Service
from serving.schemas import RequestError, RetryLaterError, decode, decode_grades
from stream.errors import ShelfwiseError
from stream.schemas.problems import Problem

_STARTING_RETRY_S = 1
_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

HttpRequest = Request[Any, Any, Any]


class IncompleteError(ShelfwiseError):
    """A request whose client left, or was disconnected, before its body was complete."""


class StartingError(RetryLaterError):
    """A rank request before the service is ready; an answer without a model would count in the client's arm."""


# Of several kinds that an error is of, the first decides.
_STATUSES: Mapping[type[ShelfwiseError], int] = {
    IncompleteError: 408,
    TooLargeError: 413,
    TooManyError: 413,
    UnknownEncodingError: 415,
    BusyError: 429,
    NoPageError: 404,
    NotOfferedError: 404,
    RetryLaterError: 503,
}


def create(service: Service) -> Litestar:
    """Return the routes as an ASGI application, whose lifespan starts and stops the service."""

    async def content_of(request: HttpRequest) -> bytes:
        encoding = request.headers.get("content-encoding", "")
        try:
            body = await request.body()
        except InternalServerException as error:
            raise IncompleteError("the client sent no complete body") from error
        return encodings.content(body, encoding, max_bytes=service.settings.max_body_bytes)

    @post(openapi.RANK, status_code=200, include_in_schema=False)
    async def rank(request: HttpRequest) -> Response[bytes]:
        if not service.is_ready:
            raise StartingError("the service is starting; see /readyz", _STARTING_RETRY_S)
        asked = decode(await content_of(request))
        answer = await service.rank(asked, edge.arrival_of(request.scope))
        edge.note_arm(request.scope, answer.arm)
        return _json(_encode(answer))

    @post(openapi.EVENTS, status_code=200, include_in_schema=False)
    async def events(request: HttpRequest) -> Response[bytes]:
        name = request.query_params.get("format", OWN_FORMAT)
        return _json(_encode(await service.collector.collect(name, await content_of(request))))

    @get(openapi.LIVE, include_in_schema=False)
    async def live() -> Response[bytes]:
        return _json(_encode(service.health()))

    @get(openapi.READY, include_in_schema=False)
    async def ready() -> Response[bytes]:
        health = service.health()
        return _json(_encode(health), 200 if health.status == "ready" else 503)

    @get(openapi.METRICS, include_in_schema=False)
    async def text_metrics() -> Response[bytes]:
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @get(openapi.EXPERIMENTS, include_in_schema=False)
    async def experiments() -> Response[bytes]:
        return _page(await service.pages.listed())

    @get(openapi.EXPERIMENT.replace("{key}", "{key:str}"), include_in_schema=False)
    async def experiment(key: FromPath[str]) -> Response[bytes]:
        return _page(await service.pages.page(key))

    labelling = annotation_page.page()

    @get(openapi.ANNOTATE, include_in_schema=False)
    async def annotate() -> Response[bytes]:
        return Response(labelling.content, headers=dict(labelling.headers), media_type="text/html")

    @get(openapi.ANNOTATIONS, include_in_schema=False)
    async def offered() -> Response[bytes]:
        answer = _json(_encode(await service.annotation.offered()))
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @post(openapi.ANNOTATIONS, status_code=200, include_in_schema=False)
    async def grade(request: HttpRequest) -> Response[bytes]:
        return _json(_encode(await service.annotation.grade(decode_grades(await content_of(request)))))

    document = _encode(openapi.document())

    @get(openapi.OPENAPI, include_in_schema=False)
    async def openapi_document() -> Response[bytes]:
        return _json(document)

    def refused(_request: HttpRequest, error: Exception) -> Response[bytes]:
        status, problem = _refusal(error)
        service.metrics.refused.labels(str(status)).inc()
        answer = _json(_encode(problem), status)
        if isinstance(error, RetryLaterError):
            answer.headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, UnknownEncodingError):
            answer.headers["Accept-Encoding"] = encodings.ENCODINGS
        return answer

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.stop()

    return Litestar(
        route_handlers=[
            rank,
            events,
            live,
            ready,
            text_metrics,
            experiments,
            experiment,
            annotate,
            offered,
            grade,
            openapi_document,
        ],
        exception_handlers={Exception: refused},
        lifespan=[lifespan],
        openapi_config=None,
        request_max_body_size=service.settings.max_body_bytes,
        logging_config=None,
    )


def _refusal(error: Exception) -> tuple[int, Problem]:
    if isinstance(error, RequestError):
        return 400, error.problem
    if isinstance(error, StatedError):
        return 422, error.problem
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return status, Problem(error=str(error))
    if isinstance(error, ClientException | HTTPException):
        return error.status_code, Problem(error=str(error.detail))
    _log.exception("a request failed", exc_info=error)
    return 500, Problem(error=str(error) if isinstance(error, ShelfwiseError) else "internal error")


def _json(content: bytes, status: int = 200) -> Response[bytes]:
    return Response(content, status_code=status, media_type=openapi.JSON)


def _page(content: str) -> Response[bytes]:
    # A page is for its readers only, has its style inside and loads nothing.
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content.encode(), headers=headers, media_type="text/html")
