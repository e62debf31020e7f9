import uuid

from serving.ranking.assignment import ClientAssignment
from serving.ranking.context import identify
from serving.ranking.rank import by_score
from serving.ranking.versions import ServedVersion
from stream.schemas.identity import query_hash
from tests.serving.world import START_MS, StubScorer, context, request

NOW_MS = START_MS + 7


def test_the_identity_takes_ids_hash_and_trusted_time_from_the_request() -> None:
    asked = request(query_id="q-9", query={"hash": "own"}, event_ts=START_MS)
    found = identify(asked, now_ms=NOW_MS, random_bytes=bytes, query_hash_key=b"k", trust_event_ts=True)
    assert (found.query_id, found.query_hash, found.event_ts) == ("q-9", "own", START_MS)
    assert uuid.UUID(found.event_id).int >> 80 == NOW_MS


def test_missing_parts_of_the_identity_are_made() -> None:
    asked = request(query_id=None, query={"text": "Red Shoes"}, event_ts=START_MS)
    found = identify(asked, now_ms=NOW_MS, random_bytes=bytes, query_hash_key=b"k", trust_event_ts=False)
    assert found.event_ts == NOW_MS
    assert uuid.UUID(found.query_id).version == 7
    assert found.query_hash == query_hash("red shoes", b"k")


def test_the_time_is_now_if_a_trusted_request_states_none() -> None:
    found = identify(request(), now_ms=NOW_MS, random_bytes=bytes, query_hash_key=b"k", trust_event_ts=True)
    assert found.event_ts == NOW_MS


def test_the_answer_names_the_version_only_if_it_scored() -> None:
    asked = request(num_candidates=2)
    version = ServedVersion(lineage="base", number=4, artifact="a" * 64, scorer=StubScorer())
    assigned = ClientAssignment(experiment="exp-1", arm="control", epoch=2, bucket=3, lineage="base", layer="ranker")
    scored = context(
        asked,
        assignment=assigned,
        version=version,
        scores=[1.0, 2.0],
        items=by_score(asked, "q-1", [1.0, 2.0]),
        latency_us=9,
    )
    answer = scored.answer()
    assert (answer.lineage, answer.version, answer.fallback, answer.latency_us) == ("base", "4", None, 9)
    assert (answer.experiment, answer.arm, answer.epoch, answer.bucket) == ("exp-1", "control", 2, 3)
    assert [item.item_id for item in answer.items] == ["i-1", "i-0"]
    late = context(asked, assignment=assigned, version=version, fallback="late").answer()
    assert (late.lineage, late.version, late.fallback) == ("base", None, "late")
