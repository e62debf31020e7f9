import os
import uuid

from stream.schemas.identity import event_id, query_hash, uuid7


def test_uuid7_is_read_by_the_standard_library() -> None:
    found = uuid.UUID(uuid7(1_767_225_600_123, os.urandom))
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert found.int >> 80 == 1_767_225_600_123


def test_uuid7_sorts_by_time() -> None:
    made = [uuid7(now, os.urandom) for now in range(1_000, 2_000)]
    assert made == sorted(made)
    assert len(set(made)) == 1_000


def test_the_query_hash_depends_on_the_key_and_hides_the_text() -> None:
    one = query_hash("red shoes", b"key")
    assert one == query_hash(" RED shoes ", b"key")
    assert one != query_hash("red shoes", b"other")
    assert "red" not in one


def test_the_event_id_of_a_key_is_a_uuid7_that_repeats() -> None:
    found = uuid.UUID(event_id(1_767_226_000_000, 1, "click"))
    assert (found.version, found.variant, found.int >> 80) == (7, uuid.RFC_4122, 1_767_226_000_000)
    assert str(found) == event_id(1_767_226_000_000, 1, "click") != event_id(1_767_226_000_000, 2, "click")
