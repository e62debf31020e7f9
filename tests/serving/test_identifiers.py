import os
import uuid

from serving.identifiers import uuid7
from stream.schemas.identity import query_hash


def test_uuid7_is_read_by_the_standard_library() -> None:
    found = uuid.UUID(uuid7(1_767_225_600_123, os.urandom))
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert found.int >> 80 == 1_767_225_600_123


def test_uuid7_sorts_by_time() -> None:
    made = [uuid7(now, os.urandom) for now in range(1_000, 2_000)]
    assert made == sorted(made)
    assert len(set(made)) == 1_000


def test_the_query_hash_depends_on_the_pepper_and_hides_the_text() -> None:
    one = query_hash("red shoes", b"pepper")
    assert one == query_hash(" RED shoes ", b"pepper")
    assert one != query_hash("red shoes", b"salt")
    assert "red" not in one
