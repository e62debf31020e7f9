"""The impression of one answer: the list as shown, the features as served, and which policy made it.

Source: STREAM.md 4, TRAINING_SERVING.md 8.3.
"""

from dataclasses import dataclass

from serving.ranking.assignment import Decision
from serving.ranking.features import Served, logged
from serving.ranking.rank import Ranking
from serving.schemas import RankRequest
from stream.schemas.events import MAX_ITEMS, Assignment, Impression, Query, ShownItems

SOURCE = "serving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Identity and time of one answer."""

    event_id: str
    event_ts: int
    query_id: str
    query_hash: str


def impression(
    request: RankRequest,
    decision: Decision,
    ranking: Ranking,
    moment: Moment,
    *,
    version: str | None,
    served: Served | None,
    price_minor: list[int],
    latency_us: int,
    attributes: dict[str, object],
) -> Impression:
    """Return the impression; of lists beyond 200 items, the first 200 candidates are logged in shown order.

    `version` is the number of the version that scored the list, `served` is None when there was no time to build
    features, and `price_minor` holds the loggable candidates in incoming order.
    """
    shown = [item for item in ranking.items if item.rank_in <= MAX_ITEMS]
    rows = [item.rank_in - 1 for item in shown]
    scores = [item.score for item in shown if item.score is not None]
    if scores and len(scores) < len(shown):
        attributes = {**attributes, "num_scored": len(scores)}
        # A column of scores has no gaps: the unscored tail stands below every scored item.
        scores += [scores[-1]] * (len(shown) - len(scores))
    return Impression(
        event_id=moment.event_id,
        event_ts=moment.event_ts,
        client_id=request.client_id,
        session_id=request.session_id,
        user_id=request.user_id,
        source=SOURCE,
        attributes=attributes,
        query_id=moment.query_id,
        query=Query(
            hash=moment.query_hash,
            category=request.query.category,
            page=request.query.page,
            total_hits=request.query.total_hits,
        ),
        currency=request.currency,
        items=ShownItems(
            object_id=[item.item_id for item in shown],
            rank_in=[item.rank_in for item in shown],
            price_minor=[price_minor[row] for row in rows],
            score=scores or None,
            propensity=[1.0] * len(shown),
        ),
        features=None if served is None else logged(served, rows),
        assignment=_assignment(decision),
        lineage=decision.lineage,
        version=version,
        fallback=ranking.fallback,
        latency_us=latency_us,
    )


def _assignment(decision: Decision) -> list[Assignment]:
    if (
        decision.layer is None
        or decision.experiment is None
        or decision.arm is None
        or decision.epoch is None
        or decision.bucket is None
    ):
        return []
    return [
        Assignment(
            layer=decision.layer,
            experiment=decision.experiment,
            arm=decision.arm,
            epoch=decision.epoch,
            bucket=decision.bucket,
        )
    ]
