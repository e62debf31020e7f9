"""Digests of closed queries: eight bytes each, expiry by the hour, and work that stays linear but for a logarithm."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from stream.join import query_digests
from stream.join.query_digests import QueryDigests, digest

MILLION = 1_000_000


@pytest.fixture
def merged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of digests that each merge of two runs reads."""
    sizes: list[int] = []
    merge_runs = query_digests.merge_runs

    def counted(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        sizes.append(len(left) + len(right))
        return merge_runs(left, right)

    monkeypatch.setattr(query_digests, "merge_runs", counted)
    return sizes


def test_a_bucket_is_forgotten_by_its_hour() -> None:
    known = QueryDigests()
    for number in range(10_000):
        known.add(number % 2, digest(f"q{number}"))
    assert len(known) == 10_000
    assert all(known.has(f"q{number}", 0) for number in range(0, 10_000, 97))
    assert not known.has("unknown", 0)
    known.forget(1)
    assert len(known) == 5_000
    assert known.has("q2", 0)
    assert not known.has("q3", 0)


def test_only_buckets_from_an_hour_on_are_searched() -> None:
    known = QueryDigests()
    known.add(3, digest("q1"))
    known.add_packed(4, query_digests.pack([digest("q2")]))
    assert known.has("q1", 3)
    assert not known.has("q1", 4)
    assert known.has("q2", 4)
    assert not known.has("q2", 5)


def test_a_million_digests_in_one_hour_are_merged_a_logarithmic_number_of_times(merged: list[int]) -> None:
    known = QueryDigests()
    for value in np.random.default_rng(3).permutation(MILLION).tolist():
        known.add(0, value)
    known.add(0, digest("q1"))
    assert len(known) == MILLION + 1
    assert known.has("q1", 0)
    assert not known.has("q2", 0)
    assert 0 < sum(merged) <= MILLION * math.log2(MILLION / 4_096)


def test_a_million_stored_digests_are_restored_without_a_merge(merged: list[int]) -> None:
    packed = query_digests.pack([*range(MILLION), digest("q1"), digest("q1")])
    known = QueryDigests()
    known.add_packed(0, packed)
    assert len(known) == MILLION + 1
    assert known.has("q1", 0)
    assert not known.has("q2", 0)
    assert merged == []


def test_a_digest_in_several_runs_is_kept_once() -> None:
    known = QueryDigests()
    for _ in range(3):
        known.add_packed(0, query_digests.pack([digest("a"), digest("b")]))
    assert len(known) == 2
    assert known.has("a", 0)


def test_digests_are_eight_bytes_each() -> None:
    assert len(query_digests.pack([digest("a"), digest("b")])) == 16
