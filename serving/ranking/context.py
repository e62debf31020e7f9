"""The record of one rank request, filled step by step on its way from the request to the impression."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from serving.ranking.assignment import ClientAssignment
from serving.ranking.features import RequestFeatures
from serving.ranking.versions import ServedVersion
from serving.schemas import RankAnswer, RankedItem, RankRequest
from stream.schemas.events import Slice
from stream.schemas.identity import query_hash, uuid7

SCORES_SHARE: Final = 0.9
"""Share of the deadline within which scores are waited for; the rest is for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerIdentity:
    """Identity and time of one answer.

    Attributes:
        event_id: Id of the impression.
        event_ts: Time of the impression, in epoch milliseconds.
        query_id: The caller's id of the query, or a new one.
        query_hash: The caller's hash of the query text, or the keyed hash of the text.
    """

    event_id: str
    event_ts: int
    query_id: str
    query_hash: str


@dataclass(slots=True, kw_only=True)
class RankContext:
    """One rank request and the results of the steps so far.

    `Service.rank` runs the steps in the order of the fields. A step reads the fields above its own, and no step changes
    a field that an earlier step has filled.

    Attributes:
        request: The decoded request.
        arrival_s: Clock reading at which the first byte of the request arrived.
        deadline_s: Clock reading at which the answer is due.
        identity: Ids and time of the answer.
        assignment: The client's arm, and the lineage or fixed policy that answers.
        version: The version of the lineage that scores the whole list; None without a lineage or a loaded version.
        slice: Slice of the client while the lineage has a canary.
        counts_for: Number of the version in whose counts the answer is reported.
        price_minor: Price of each candidate that is logged, in incoming order.
        item_types: Type of each of these candidates; empty if all are products.
        features: Features of the request; None if the thread had no time to build them.
        scores: Scores of the first candidates; None if no version scored the list.
        is_shed: Whether no features were built because the list could not be scored in time.
        fallback: Reason why no version scored the list although a lineage was assigned.
        items: The candidates in answer order.
        propensity: The chance of the position of each of these items; empty if all are certain.
        latency_us: Time from the arrival until the order was known.
    """

    request: RankRequest
    arrival_s: float
    deadline_s: float
    identity: AnswerIdentity
    assignment: ClientAssignment = field(default_factory=ClientAssignment)
    version: ServedVersion | None = None
    slice: Slice | None = None
    counts_for: int | None = None
    price_minor: list[int] = field(default_factory=list)
    item_types: list[str] = field(default_factory=list)
    features: RequestFeatures | None = None
    scores: Sequence[float] | None = None
    is_shed: bool = False
    fallback: str | None = None
    items: tuple[RankedItem, ...] = ()
    propensity: Sequence[float] = ()
    latency_us: int = 0

    @property
    def scores_due_s(self) -> float:
        """Return the clock reading until which scores are waited for."""
        return scores_due_s(self.arrival_s, self.deadline_s)

    @property
    def scored_by(self) -> str | None:
        """Return the number of the version that scored the list, or None."""
        return None if self.version is None or self.scores is None else str(self.version.number)

    def answer(self) -> RankAnswer:
        """Return the answer of the finished request."""
        return RankAnswer(
            query_id=self.identity.query_id,
            items=list(self.items),
            lineage=self.assignment.lineage,
            version=self.scored_by,
            experiment=self.assignment.experiment,
            arm=self.assignment.arm,
            epoch=self.assignment.epoch,
            bucket=self.assignment.bucket,
            fallback=self.fallback,
            latency_us=self.latency_us,
            impression_event_id=self.identity.event_id,
        )


def scores_due_s(arrival_s: float, deadline_s: float) -> float:
    """Return the clock reading until which the scores of a request are waited for.

    >>> scores_due_s(100.0, 101.0)
    100.9
    """
    return arrival_s + SCORES_SHARE * (deadline_s - arrival_s)


def identify(
    request: RankRequest,
    *,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
    query_hash_key: bytes,
    trust_event_ts: bool,
) -> AnswerIdentity:
    """Return the identity of the answer to a request.

    Args:
        request: The request.
        now_ms: Epoch milliseconds.
        random_bytes: Source of random bytes for new ids.
        query_hash_key: Key of the hash that replaces the query text.
        trust_event_ts: Whether the time that the request states is used instead of `now_ms`.
    """
    stated_ts = request.event_ts if trust_event_ts else None
    return AnswerIdentity(
        event_id=uuid7(now_ms, random_bytes),
        event_ts=now_ms if stated_ts is None else stated_ts,
        query_id=request.query_id or uuid7(now_ms, random_bytes),
        query_hash=request.query.hash or query_hash(request.query.text or "", query_hash_key),
    )
