"""Requests and answers of the HTTP API, strictly typed; a refusal names the field and its value.

Unknown fields are refused, so that a misspelt field is not ignored. The OpenAPI document is generated from these
structs.

Source: docs/serving.md.
"""

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from stream.errors import SchemaError, ShelfwiseError
from stream.schemas.annotation import Grade, Label, Seconds
from stream.schemas.events import (
    MAX_ITEMS,
    Bucket,
    ClientId,
    Currency,
    ItemId,
    ItemType,
    Money,
    Position,
    QueryId,
    Timestamp,
)
from stream.schemas.identity import hashed_ids
from stream.schemas.problems import Problem, problem

MAX_CANDIDATES = 1_000

# Vectors travel on as float16.
VectorNumber = Annotated[float, Meta(ge=-65_504, le=65_504)]
ShortText = Annotated[str, Meta(min_length=1, max_length=128)]


class Candidate(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One item to rank. Price and type default to the catalogue's; both are written into the impression."""

    item_id: ItemId
    price_minor: Money | None = None
    type: ItemType | None = None


class QueryText(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The search request: its text, of which only hashes are kept, or the hash; neither for a category page.

    Attributes:
        category: The category, or its path with `>` or `/` between the nodes.
        vector: The shop's vector of the query, in the vector space and width of the items' text vectors.
    """

    text: Annotated[str, Meta(max_length=2_000)] | None = None
    hash: ShortText | None = None
    category: ShortText | None = None
    page: Annotated[int, Meta(ge=1, le=100_000)] = 1
    total_hits: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    vector: Annotated[list[VectorNumber], Meta(min_length=1, max_length=1_024)] | None = None


class ClientTraits(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Optional features of the client."""

    age_band: ShortText | None = None
    gender: ShortText | None = None


class RankRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Candidates of one query in incoming order.

    Attributes:
        query_id: Id of the query; a new one if it is absent.
        event_ts: Time of the impression; used only if `serving.trust_event_ts` is set.
    """

    client_id: ClientId
    query_id: QueryId | None = None
    session_id: ShortText | None = None
    user_id: ShortText | None = None
    query: QueryText
    currency: Currency
    candidates: Annotated[list[Candidate], Meta(min_length=1, max_length=MAX_CANDIDATES)]
    client: ClientTraits | None = None
    event_ts: Timestamp | None = None


class RankedItem(Struct, kw_only=True, frozen=True):
    """One product in answer order; `score` is null if no model scored it."""

    item_id: ItemId
    position: Position
    rank_in: Position
    score: float | None


class RankAnswer(Struct, kw_only=True, frozen=True):
    """The ordered list and the policy that ordered it; `fallback` is the reason for the incoming order, or null."""

    query_id: QueryId
    items: list[RankedItem]
    lineage: str | None
    version: str | None
    experiment: str | None
    arm: str | None
    epoch: int | None
    bucket: Bucket | None
    fallback: str | None
    latency_us: Annotated[int, Meta(ge=0)]
    impression_event_id: str


class EventResult(Struct, kw_only=True, frozen=True):
    """Result of one payload of a batch.

    Attributes:
        status: `accepted`, `rejected`, or `partial` if some of the events of a payload were rejected.
        records: Number of records of the payload that the broker acknowledged.
        reason: Reason code of the dead letter.
        error: The expected and the actual content.
        field: The wrong field, if it was one field.
        value: The value of the wrong field.
    """

    status: Literal["accepted", "partial", "rejected"]
    records: Annotated[int, Meta(ge=0)]
    reason: str | None = None
    error: str | None = None
    field: str | None = None
    value: str | None = None


class CollectAnswer(Struct, kw_only=True, frozen=True):
    """Results in the order of the payloads; the broker has acknowledged all records and dead letters."""

    accepted: Annotated[int, Meta(ge=0)]
    rejected: Annotated[int, Meta(ge=0)]
    results: list[EventResult]


class OfferedItem(Struct, kw_only=True, frozen=True):
    """One item of a candidate page, without the score that chose it."""

    item_id: ItemId
    type: str
    title: str
    price: str


class OfferedPage(Struct, kw_only=True, frozen=True):
    """A candidate page; `query` and `category` are empty if they are unknown."""

    page: Label
    query: str
    category: str
    items: list[OfferedItem]


class OfferedPages(Struct, kw_only=True, frozen=True):
    """The candidate pages that the service has, in the order of its file."""

    pages: list[OfferedPage]


class Grading(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The grade of one item of a candidate page.

    Attributes:
        seconds: Time that the judgement took.
        event_ts: Time of the judgement.
    """

    page: Label
    item_id: ItemId
    grade: Grade
    seconds: Seconds
    event_ts: Timestamp


class GradeRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Judgements of one annotator."""

    annotator: Label
    judgements: Annotated[list[Grading], Meta(min_length=1, max_length=MAX_ITEMS)]


class GradeAnswer(Struct, kw_only=True, frozen=True):
    """Number of judgements, all of which the broker has acknowledged."""

    accepted: Annotated[int, Meta(ge=0)]


class Health(Struct, kw_only=True, frozen=True):
    """State of the process: active versions by lineage, the experiment, and the replicas.

    Attributes:
        refused: Reason by lineage whose live version does not answer; a former version answers, if one is intact.
        withdrawn: Reason by lineage of which no version may answer any more: it is killed, or rolled back without a
            former version.
        map_source: Whether the map is from the `database`, from the local `copy`, or there is `none` yet.
        map_age_s: Seconds since the database last told the experiment and the versions.
    """

    status: str
    versions: dict[str, str] = {}
    experiment: str | None = None
    epoch: int | None = None
    catalogue: str = ""
    profiles: str = ""
    refused: dict[str, str] = {}
    withdrawn: dict[str, str] = {}
    map_source: str = "none"
    map_age_s: float = 0.0
    num_items: int = 0
    num_profiles: int = 0


class RequestError(SchemaError):
    """A request that does not match its schema; answered with 400 and `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__("bad_request", f"{problem.field or 'body'}: {problem.error}")
        self.problem = problem


class RetryLaterError(ShelfwiseError):
    """A request that has no answer now; the caller sends it again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def with_hashed_ids(request: RankRequest, key: bytes) -> RankRequest:
    """Return the request with hashes in place of the ids of the client, the visit and the account."""
    found = hashed_ids(request.client_id, request.session_id, request.user_id, key)
    return msgspec.structs.replace(request, **found)


_rank_requests = msgspec.json.Decoder(RankRequest)
_grade_requests = msgspec.json.Decoder(GradeRequest)
_Request = TypeVar("_Request", RankRequest, GradeRequest)


def decode(body: bytes) -> RankRequest:
    """Return the request in `body`.

    Raises:
        RequestError: If the request is not valid; the problem names the first wrong field and its value.
    """
    request = _decoded(_rank_requests, body)
    if request.query.text is not None and request.query.hash is not None:
        raise RequestError(
            Problem(error="give the text or its hash, not both", field="query.hash", value=request.query.hash)
        )
    seen: set[str] = set()
    for index, candidate in enumerate(request.candidates):
        if candidate.item_id in seen:
            field = f"candidates[{index}].item_id"
            raise RequestError(Problem(error="the item is listed twice", field=field, value=candidate.item_id))
        seen.add(candidate.item_id)
    return request


def decode_grades(body: bytes) -> GradeRequest:
    """Return the request in `body`.

    Raises:
        RequestError: If the request is not valid; the problem names the first wrong field and its value.
    """
    return _decoded(_grade_requests, body)


def _decoded(decoder: msgspec.json.Decoder[_Request], body: bytes) -> _Request:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(problem(str(error), body)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(Problem(error=f"not valid JSON: {error}")) from error
