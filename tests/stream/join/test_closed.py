"""Closed queries are remembered in eight bytes each and forgotten by the hour."""

from stream.join import closed
from stream.join.closed import ClosedQueries, digest


def test_remembers_and_forgets_by_the_hour() -> None:
    over = ClosedQueries()
    for number in range(10_000):
        over.add(number % 2, digest(f"q{number}"))
    assert len(over) == 10_000
    assert all(f"q{number}" in over for number in range(0, 10_000, 97))
    assert "unknown" not in over
    over.forget(1)
    assert len(over) == 5_000
    assert "q2" in over
    assert "q3" not in over


def test_digests_survive_their_bytes() -> None:
    digests = [digest("a"), digest("b")]
    assert closed.unpack(closed.pack(digests)) == digests
    assert len(closed.pack(digests)) == 16
