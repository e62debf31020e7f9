import hmac
import os
import uuid

from stream.schemas.identity import client_hash, event_id, hashed_ids, query_hash, uuid7


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


def test_the_client_hash_is_what_other_programs_compute() -> None:
    key, client = b"0123456789abcdef0123456789abcdef", "GA1.2.ä"
    assert client_hash(client, key) == hmac.digest(key, client.encode(), "sha256").hex()[:32]
    assert client_hash(client, key) != client_hash(client, key[:-1])
    assert client_hash(client, key) != client_hash(client + " ", key)


def test_ids_that_are_absent_stay_absent() -> None:
    hashed = client_hash("c", b"k")
    assert hashed_ids("c", None, None, b"k") == {"client_id": hashed, "session_id": None, "user_id": None}
    assert hashed_ids("c", "c", "u", b"k") == {
        "client_id": hashed,
        "session_id": hashed,
        "user_id": client_hash("u", b"k"),
    }


def test_the_event_id_of_a_key_is_a_uuid7_that_repeats() -> None:
    found = uuid.UUID(event_id(1_767_226_000_000, 1, "click"))
    assert (found.version, found.variant, found.int >> 80) == (7, uuid.RFC_4122, 1_767_226_000_000)
    assert str(found) == event_id(1_767_226_000_000, 1, "click") != event_id(1_767_226_000_000, 2, "click")
