"""The impression of one answer: the list as shown, the features as served, and the policy that ordered the list.

Source: docs/serving.md.
"""

from serving.ranking.assignment import ClientAssignment
from serving.ranking.context import RankContext
from serving.ranking.features import logged
from stream.schemas.events import MAX_ITEMS, Assignment, Impression, Query, ShownItems

SOURCE = "serving"


def impression(context: RankContext, attributes: dict[str, object]) -> Impression:
    """Return the impression of a finished request; of longer lists, the first 200 candidates in answer order.

    Args:
        context: The finished request.
        attributes: Facts about the process, such as its host.
    """
    request, identity = context.request, context.identity
    chances = context.propensity or [1.0] * len(context.items)
    placed = [each for each in zip(context.items, chances, strict=True) if each[0].rank_in <= MAX_ITEMS]
    shown = [item for item, _ in placed]
    rows = [item.rank_in - 1 for item in shown]
    scores = [item.score for item in shown if item.score is not None]
    if scores and len(scores) < len(shown):
        attributes = {**attributes, "num_scored": len(scores)}
        # A column of scores has no gaps: each unscored item repeats the lowest score, and stands below the scored ones.
        scores += [min(scores)] * (len(shown) - len(scores))
    return Impression(
        event_id=identity.event_id,
        event_ts=identity.event_ts,
        client_id=request.client_id,
        session_id=request.session_id,
        user_id=request.user_id,
        source=SOURCE,
        attributes=attributes,
        query_id=identity.query_id,
        query=Query(
            hash=identity.query_hash,
            category=request.query.category,
            page=request.query.page,
            total_hits=request.query.total_hits,
        ),
        currency=request.currency,
        items=ShownItems(
            object_id=[item.item_id for item in shown],
            rank_in=[item.rank_in for item in shown],
            price_minor=[context.price_minor[row] for row in rows],
            score=scores or None,
            propensity=[chance for _, chance in placed],
            type=[context.item_types[row] for row in rows] if context.item_types else None,
        ),
        assignment=_assignments(context.assignment),
        lineage=context.assignment.lineage,
        version=context.scored_by,
        slice=context.slice,
        fallback=context.fallback,
        latency_us=context.latency_us,
        features=None if context.features is None else logged(context.features, rows),
    )


def _assignments(assigned: ClientAssignment) -> list[Assignment]:
    if (
        assigned.layer is None
        or assigned.experiment is None
        or assigned.arm is None
        or assigned.epoch is None
        or assigned.bucket is None
    ):
        return []
    return [
        Assignment(
            layer=assigned.layer,
            experiment=assigned.experiment,
            arm=assigned.arm,
            epoch=assigned.epoch,
            bucket=assigned.bucket,
        )
    ]
