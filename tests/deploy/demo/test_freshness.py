"""Freshness by hand-made logs."""

from collections.abc import Mapping

import pytest

from deploy.demo.freshness import AppendTimes, freshness_of
from trainer.versions.registry import Version


def version(number: int, offsets: Mapping[str, int], published_ts: int) -> Version:
    return Version(
        lineage="base",
        version=number,
        artifact="a" * 64,
        parent=None,
        term=1,
        status="live",
        metrics={},
        offsets=offsets,
        published_ts=published_ts,
    )


@pytest.fixture
def sessions() -> AppendTimes:
    """Two partitions: one record a second, and one every ten seconds with holes between the offsets."""
    times = AppendTimes()
    for number in range(100):
        times.add(0, number, 1_000 * number)
    for number in range(10):
        times.add(1, 3 * number, 10_000 * number)
    return times


def test_each_session_counts_once_from_its_append_to_the_version_that_learned_it(sessions: AppendTimes) -> None:
    found = freshness_of([version(1, {"0": 10, "1": 3}, 12_000), version(2, {"0": 20, "1": 4}, 22_000)], sessions)
    # Of partition 0 those of 10 to 19 s, learned at 22 s: 3 to 12 s. Of partition 1 that of 10 s.
    assert found is not None
    assert (found.sessions, found.p50_s, found.p95_s) == (11, 8.0, 12.0)


def test_sessions_that_are_learned_again_after_a_rewind_do_not_count_twice(sessions: AppendTimes) -> None:
    found = freshness_of(
        [
            version(1, {"0": 10}, 12_000),
            version(2, {"0": 30}, 32_000),
            version(3, {"0": 20}, 60_000),
            version(4, {"0": 31}, 61_000),
        ],
        sessions,
    )
    assert found is not None
    assert (found.sessions, found.p50_s, found.p95_s) == (21, 13.0, 22.0)


@pytest.mark.parametrize("numbers", [0, 1])
def test_without_a_second_version_there_is_no_freshness(numbers: int, sessions: AppendTimes) -> None:
    assert freshness_of([version(1, {"0": 10}, 12_000)] * numbers, sessions) is None


def test_a_partition_that_the_first_version_had_not_seen_counts_from_its_start(sessions: AppendTimes) -> None:
    found = freshness_of([version(1, {"0": 100}, 100_000), version(2, {"0": 100, "1": 4}, 21_000)], sessions)
    assert found is not None
    assert (found.sessions, found.p50_s, found.p95_s) == (2, 21.0, 21.0)
