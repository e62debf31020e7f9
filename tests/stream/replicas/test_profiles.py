import pytest

from stream.errors import SchemaError
from stream.replicas.profiles import MAX_BEHAVIOURS, Profiles, decode
from stream.schemas import topics
from stream.schemas.events import Behaviour, Profile, encode
from tests.stream.replicas.test_catalogue import StoredRecord


def profile(client: str, *times: int) -> Profile:
    return Profile(
        client_id=client,
        behaviours=[Behaviour(event_id=f"e{t}", item_id=f"i{t}", action="click", event_ts=t) for t in times],
        updated_ts=max(times),
    )


def record(value: Profile | None, offset: int, client: str) -> StoredRecord:
    return StoredRecord(client.encode(), encode(value) if value else None, offset, topic=topics.PROFILES)


def test_behaviours_come_newest_first_and_are_capped() -> None:
    profiles = Profiles()
    profiles.apply([record(profile("a", *range(1, 71)), 0, "a")])
    times = [b.event_ts for b in profiles.behaviours("a")]
    assert times == list(range(70, 70 - MAX_BEHAVIOURS, -1))
    assert profiles.behaviours("nobody") == ()


def test_tombstones_delete_and_bad_records_are_counted() -> None:
    profiles = Profiles()
    bad = StoredRecord(b"c", b"[1]", 2, topic=topics.PROFILES)
    assert profiles.apply([record(profile("a", 1), 0, "a"), record(None, 1, "a"), bad]) == 2
    assert "a" not in profiles
    assert profiles.num_rejected == 1
    assert profiles.positions == {(topics.PROFILES, 0): 3}


def test_the_client_used_longest_ago_leaves_first() -> None:
    profiles = Profiles(capacity=2)
    profiles.put(profile("a", 1))
    profiles.put(profile("b", 1))
    assert profiles.behaviours("a")
    profiles.put(profile("c", 1))
    assert "b" not in profiles
    assert len(profiles) == 2
    assert profiles.num_evicted == 1


def test_refusals_name_the_field() -> None:
    with pytest.raises(ValueError, match="capacity = 0"):
        Profiles(capacity=0)
    with pytest.raises(SchemaError, match="schema_version 9"):
        decode(encode(Profile(schema_version=9, client_id="a", behaviours=[], updated_ts=0)))
