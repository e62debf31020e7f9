"""Logged lists with the scores of their items, from sessions or impressions."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from stream.errors import SchemaError
from stream.operations.export import sessions
from stream.schemas import decode
from stream.schemas.events import PRODUCT, Impression
from stream.schemas.records import Record
from stream.schemas.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredList:
    """A list as shown, with the score of each item by the lineage that ranked it; columns of equal length.

    Attributes:
        shown_ts: Time of the impression.
        currency: Currency of the prices; `XXX` = unknown.
        type: Type of each item.
        session_at: Partition and offset of the record of `sessions` that holds the list; None if it is an impression.
    """

    query_id: str
    query_hash: str
    category: str | None
    lineage: str | None
    shown_ts: int
    currency: str
    item_id: Sequence[str]
    type: Sequence[str]
    score: Sequence[float]
    price_minor: Sequence[int]
    session_at: tuple[int, int] | None = None


def of_sessions(records: Iterable[Record], left_out: Counter[str]) -> Iterator[ScoredList]:
    """Yield the lists of the topic `sessions`; a corrected one comes several times.

    Args:
        records: Records of the topic.
        left_out: Counts lists by the reason why they are left out.
    """
    for record in records:
        for session in sessions([record]):
            if session.score:
                yield _of_session(session, (record.partition, record.offset))
            else:
                left_out["without scores"] += 1


def of_impressions(records: Iterable[Record], left_out: Counter[str]) -> Iterator[ScoredList]:
    """Yield the lists of the topic `impressions`; a repeated one comes several times.

    Args:
        records: Records of the topic.
        left_out: Counts lists by the reason why they are left out.
    """
    for record in records:
        try:
            impression = decode.impression(record.value)
        except SchemaError:
            left_out["not readable"] += 1
            continue
        if impression.items.score is None:
            left_out["without scores"] += 1
        elif impression.items.position is not None:
            left_out["part of a list; the topic sessions has it whole"] += 1
        else:
            yield _of_impression(impression, impression.items.score)


def _of_session(session: Session, at: tuple[int, int]) -> ScoredList:
    return ScoredList(
        query_id=session.query_id,
        query_hash=session.query_hash,
        category=session.query_category,
        lineage=session.lineage,
        shown_ts=session.impression_ts,
        currency=session.list_currency,
        item_id=session.item_id,
        type=session.item_type or [PRODUCT] * session.n,
        score=session.column("score").tolist(),
        price_minor=session.column("price_minor").tolist(),
        session_at=at,
    )


def _of_impression(impression: Impression, score: Sequence[float]) -> ScoredList:
    items = impression.items
    return ScoredList(
        query_id=impression.query_id,
        query_hash=impression.query.hash,
        category=impression.query.category,
        lineage=impression.lineage,
        shown_ts=impression.event_ts,
        currency=impression.currency,
        item_id=items.object_id,
        type=items.type or [PRODUCT] * len(items.object_id),
        score=score,
        price_minor=items.price_minor,
    )
