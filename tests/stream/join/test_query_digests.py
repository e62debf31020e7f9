"""Digests of closed queries: eight bytes each, and expiry by the hour."""

from stream.join import query_digests
from stream.join.query_digests import QueryDigests, digest


def test_a_bucket_is_forgotten_by_its_hour() -> None:
    known = QueryDigests()
    for number in range(10_000):
        known.add(number % 2, digest(f"q{number}"))
    assert len(known) == 10_000
    assert all(f"q{number}" in known for number in range(0, 10_000, 97))
    assert "unknown" not in known
    known.forget(1)
    assert len(known) == 5_000
    assert "q2" in known
    assert "q3" not in known


def test_digests_survive_their_bytes() -> None:
    digests = [digest("a"), digest("b")]
    assert query_digests.unpack(query_digests.pack(digests)) == digests
    assert len(query_digests.pack(digests)) == 16
