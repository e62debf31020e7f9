"""Lists of both topics are the same lists; those without scores are counted."""

from collections import Counter
from dataclasses import replace as dataclass_replace

import numpy as np
from msgspec.structs import replace

from stream.schemas import topics
from stream.schemas.events import Impression, Query, ShownItems, encode
from stream.schemas.session import Session
from tests.harness.sessions import LogRecord, log_of, make_session
from trainer.annotation.scored_lists import ScoredList, of_impressions, of_sessions

LIST = ScoredList(
    query_id="q-1",
    query_hash="q",
    category=None,
    lineage="prm-1",
    shown_ts=1_000,
    currency="EUR",
    item_id=["i0", "i1", "i2"],
    type=["product"] * 3,
    score=[0.5, 0.25, -1.0],
    price_minor=[1_000] * 3,
)
IMPRESSION = Impression(
    event_id="e-1",
    event_ts=1_000,
    client_id="c-1",
    source="test",
    query_id="q-1",
    query=Query(hash="q"),
    currency="EUR",
    lineage="prm-1",
    items=ShownItems(object_id=["i0", "i1", "i2"], rank_in=[1, 2, 3], price_minor=[1_000] * 3, score=[0.5, 0.25, -1.0]),
)
TYPES = ["product", "video", "card"]


def scored(query_id: str = "q-1") -> Session:
    score = np.asarray(LIST.score, "<f4").tobytes()
    return replace(make_session(query_id, "c-1", n=3), score=score, list_currency="EUR")


def shown(*impressions: Impression) -> list[LogRecord]:
    return [LogRecord(0, offset, encode(each), topic=topics.IMPRESSIONS) for offset, each in enumerate(impressions)]


def test_sessions_and_impressions_give_the_same_list() -> None:
    left_out: Counter[str] = Counter()
    assert list(of_sessions(log_of([scored()]), left_out)) == [dataclass_replace(LIST, session_at=(0, 0))]
    assert list(of_impressions(shown(IMPRESSION), left_out)) == [LIST]
    typed = replace(IMPRESSION, items=replace(IMPRESSION.items, type=TYPES))
    expected = dataclass_replace(LIST, type=TYPES)
    later = log_of([replace(scored(), item_type=TYPES)], partition=2, first=9)
    assert list(of_sessions(later, left_out)) == [dataclass_replace(expected, session_at=(2, 9))]
    assert list(of_impressions(shown(typed), left_out)) == [expected]
    assert not left_out


def test_lists_without_scores_and_parts_are_counted() -> None:
    left_out: Counter[str] = Counter()
    (found,) = of_sessions(log_of([make_session("q-2", "c-1"), scored()]), left_out)
    assert found == dataclass_replace(LIST, session_at=(0, 1))
    assert left_out == {"without scores": 1}
    bare = replace(IMPRESSION, items=replace(IMPRESSION.items, score=None))
    part = replace(IMPRESSION, items=replace(IMPRESSION.items, position=[1, 2, 3]))
    records = [*shown(bare, part), LogRecord(0, 2, b"{", topic=topics.IMPRESSIONS)]
    assert list(of_impressions(records, left_out)) == []
    assert left_out == {"without scores": 2, "part of a list; the topic sessions has it whole": 1, "not readable": 1}
