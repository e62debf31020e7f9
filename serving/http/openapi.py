"""The OpenAPI document, made from the request and answer structs, so that it cannot differ from what is decoded."""

from importlib.metadata import version

import msgspec

from serving.outbox.collector import MAX_PAYLOADS, OWN
from serving.schemas import CollectAnswer, Health, RankAnswer, RankRequest
from stream.adapters import FORMATS
from stream.schemas.problems import Problem

EVENTS = "/v1/events"
RANK, LIVE, READY, METRICS, OPENAPI = "/v1/rank", "/livez", "/readyz", "/metrics", "/openapi.json"
_JSON = "application/json"
_EVENTS_BODY = {
    "oneOf": [
        # A line of Snowplow's TSV travels as a string.
        {"type": "array", "maxItems": MAX_PAYLOADS, "items": {"type": ["object", "string"]}},
        {"type": "object"},
    ]
}


def document() -> dict[str, object]:
    """Return the OpenAPI 3.1 document of the ranking service."""
    kinds = (RankRequest, RankAnswer, Problem, Health, CollectAnswer)
    references, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    request, answer, problem, health, collected = references
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shelfwise ranking service", "version": version("shelfwise")},
        "paths": {
            RANK: {
                "post": {
                    "operationId": "rank",
                    "summary": "Order the candidates of one query for one client.",
                    "requestBody": {"required": True, "content": {_JSON: {"schema": request}}},
                    "responses": {
                        "200": _response("The ordered list; `fallback` says why it stands in incoming order.", answer),
                        "400": _response("The request is not valid; names the field and its value.", problem),
                        "413": _response("The body is too large.", problem),
                    },
                }
            },
            EVENTS: {
                "post": {
                    "operationId": "collect",
                    "summary": "Hand over recorded events; each has a verdict once the broker has it.",
                    "parameters": [
                        {
                            "name": "format",
                            "in": "query",
                            "description": "Convention of the events.",
                            "schema": {"type": "string", "enum": list(FORMATS), "default": OWN},
                        }
                    ],
                    "requestBody": {"required": True, "content": {_JSON: {"schema": _EVENTS_BODY}}},
                    "responses": {
                        "200": _response("A verdict per event; those that are rejected are dead letters.", collected),
                        "400": _response("No JSON array of events, no event, or an unknown format.", problem),
                        "413": _response("The body is too large, or holds too many events.", problem),
                        "429": _response("Too much is on its way to the broker; see Retry-After.", problem),
                        "503": _response("The broker did not acknowledge; send all of it again.", problem),
                    },
                }
            },
            LIVE: {"get": _get("live", "The process runs.", {"200": _response("It does.", health)})},
            READY: {
                "get": _get(
                    "ready",
                    "Requests may be sent.",
                    {"200": _response("Warm.", health), "503": _response("Starting or stopping.", health)},
                )
            },
            METRICS: {
                "get": _get(
                    "metrics",
                    "Prometheus metrics.",
                    {"200": {"description": "Text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
                )
            },
            OPENAPI: {"get": _get("openapi", "This document.", {"200": _response("OpenAPI 3.1.", {"type": "object"})})},
        },
        "components": {"schemas": components},
    }


def _get(name: str, summary: str, responses: dict[str, object]) -> dict[str, object]:
    return {"operationId": name, "summary": summary, "responses": responses}


def _response(description: str, schema: object) -> dict[str, object]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}
