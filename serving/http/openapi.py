"""The OpenAPI document, generated from the structs that decode requests and encode answers."""

from importlib.metadata import version

import msgspec

from serving.outbox.collector import MAX_PAYLOADS, OWN_FORMAT
from serving.schemas import CollectAnswer, GradeAnswer, GradeRequest, Health, OfferedPages, RankAnswer, RankRequest
from stream.adapters import FORMATS
from stream.schemas.problems import Problem

EVENTS = "/v1/events"
RANK, LIVE, READY, METRICS, OPENAPI = "/v1/rank", "/livez", "/readyz", "/metrics", "/openapi.json"
ANNOTATE, ANNOTATIONS = "/annotate", "/v1/annotations"
EXPERIMENTS = "/experiments"
EXPERIMENT = "/experiments/{key}"
JSON = "application/json"
"""Content type of bodies and answers."""
# The empty alternative: without tokens in the settings everybody may call.
_SECURITY: list[dict[str, list[str]]] = [{"token": []}, {}]
_EVENTS_BODY = {
    "oneOf": [
        # A line of Snowplow's TSV is a JSON string.
        {"type": "array", "maxItems": MAX_PAYLOADS, "items": {"type": ["object", "string"]}},
        {"type": "object"},
    ]
}


def document() -> dict[str, object]:
    """Return the OpenAPI 3.1 document of the ranking service."""
    kinds = (RankRequest, RankAnswer, Problem, Health, CollectAnswer, GradeRequest, GradeAnswer, OfferedPages)
    references, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    request, answer, problem, health, collected, grades, graded, offered = references
    unknown = _response("The bearer token is missing, unknown or expired; only where the service has tokens.", problem)
    forbidden = _response("The bearer token has not the role of this path.", problem)
    too_often = _response("The rate of the bearer token is used up; see Retry-After.", problem)
    access: dict[str, object] = {"401": unknown, "403": forbidden, "429": too_often}
    unavailable: dict[str, object] = {
        "503": _response("The database does not answer, or another page is being read; see Retry-After.", problem)
    }
    unoffered: dict[str, object] = {
        "404": _response("The service has no candidate pages.", problem),
        "503": _response("The candidate pages cannot be read; see Retry-After.", problem),
    }
    unsuited = _response("The body is no application/json, or has an unknown Content-Encoding.", problem)
    misdirected = _response("The Host is none of serving.allowed_hosts.", problem)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shelfwise ranking service", "version": version("shelfwise")},
        "paths": {
            RANK: {
                "post": {
                    "operationId": "rank",
                    "summary": "Order the candidates of one query for one client.",
                    "security": _SECURITY,
                    "requestBody": {"required": True, "content": {JSON: {"schema": request}}},
                    "responses": {
                        "200": _response("The ordered list; `fallback` is the reason for the incoming order.", answer),
                        "400": _response("The request is not valid; the field and its value are named.", problem),
                        "408": {"description": "The body was not complete in time."},
                        "413": _response("The body is too large.", problem),
                        "415": unsuited,
                        "421": misdirected,
                        "503": _response("The service is overloaded, or starts; see Retry-After.", problem),
                    }
                    | access,
                }
            },
            EVENTS: {
                "post": {
                    "operationId": "collect",
                    "summary": "Post recorded events; answered after the broker has acknowledged them.",
                    "security": _SECURITY,
                    "parameters": [
                        {
                            "name": "format",
                            "in": "query",
                            "description": "Format of the events.",
                            "schema": {"type": "string", "enum": list(FORMATS), "default": OWN_FORMAT},
                        }
                    ],
                    "requestBody": {"required": True, "content": {JSON: {"schema": _EVENTS_BODY}}},
                    "responses": access
                    | {
                        "200": _response("A result per event; rejected events are dead letters.", collected),
                        "400": _response(
                            "The body is no JSON array of events and no event, or the format is unknown.", problem
                        ),
                        "408": {"description": "The body was not complete in time."},
                        "413": _response("The body is too large or holds too many events.", problem),
                        "415": unsuited,
                        "421": misdirected,
                        "422": _response("An event has a field that only the ranking service states.", problem),
                        "429": _response(
                            "Too many events wait for the broker, or the token's rate is used up; see Retry-After.",
                            problem,
                        ),
                        "503": _response("The broker did not acknowledge the events; send all of them again.", problem),
                    },
                }
            },
            ANNOTATE: {
                "get": _get("annotate", "Return the page on which annotators judge items.", {"200": _page("The page.")})
            },
            ANNOTATIONS: {
                "get": _get(
                    "offered",
                    "Return the candidate pages to judge.",
                    {"200": _response("The pages.", offered)} | access | unoffered,
                )
                | {"security": _SECURITY},
                "post": {
                    "operationId": "grade",
                    "summary": "Post judgements; answered after the broker has acknowledged them.",
                    "security": _SECURITY,
                    "requestBody": {"required": True, "content": {JSON: {"schema": grades}}},
                    "responses": access
                    | unoffered
                    | {
                        "200": _response("The judgements are on the broker.", graded),
                        "400": _response("A judgement is not valid; the field and its value are named.", problem),
                        "408": {"description": "The body was not complete in time."},
                        "413": _response("The body is too large.", problem),
                        "415": unsuited,
                        "421": misdirected,
                        "429": _response(
                            "Too many events wait for the broker, or the token's rate is used up; see Retry-After.",
                            problem,
                        ),
                        "503": _response(
                            "The broker did not acknowledge the judgements: send all of them again. Or the candidate"
                            " pages cannot be read.",
                            problem,
                        ),
                    },
                },
            },
            LIVE: {
                "get": _get("live", "Return whether the process runs.", {"200": _response("The process runs.", health)})
            },
            READY: {
                "get": _get(
                    "ready",
                    "Return whether requests may be sent.",
                    {"200": _response("Ready.", health), "503": _response("Starting or draining.", health)},
                )
            },
            METRICS: {
                "get": _get(
                    "metrics",
                    "Return the Prometheus metrics.",
                    {
                        "200": {
                            "description": "Prometheus text format.",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        },
                        **access,
                    },
                )
                | {"security": _SECURITY}
            },
            OPENAPI: {
                "get": _get(
                    "openapi",
                    "Return this document.",
                    {"200": _response("OpenAPI 3.1.", {"type": "object"}), **access},
                )
                | {"security": _SECURITY}
            },
            EXPERIMENTS: {
                "get": _get(
                    "experiments",
                    "Return a page for people that lists the experiments.",
                    {"200": _page("The list.")} | access | unavailable,
                )
                | {"security": _SECURITY}
            },
            EXPERIMENT: {
                "get": _get(
                    "experiment",
                    "Return the page of an experiment for people, as `abtest watch` wrote it last.",
                    {"200": _page("The page."), "404": _response("The experiment has no page.", problem)}
                    | access
                    | unavailable,
                )
                | {
                    "security": _SECURITY,
                    "parameters": [
                        {"name": "key", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                    ],
                }
            },
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _page(description: str) -> dict[str, object]:
    return {"description": description, "content": {"text/html": {"schema": {"type": "string"}}}}


def _get(name: str, summary: str, responses: dict[str, object]) -> dict[str, object]:
    return {"operationId": name, "summary": summary, "responses": responses}


def _response(description: str, schema: object) -> dict[str, object]:
    return {"description": description, "content": {JSON: {"schema": schema}}}
