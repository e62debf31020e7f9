"""One round of each fault of the join worker; tests/system/test_worker_faults.py has the full counts."""

from pathlib import Path

import pytest

from deploy.kafka.local import LocalKafka
from tests.harness.rounds import (
    cut_the_log,
    kill_all,
    kill_broker,
    kill_one,
    stop_and_continue,
)

pytestmark = [pytest.mark.kafka, pytest.mark.no_cover]


def test_s1_a_killed_worker_changes_nothing(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    assert len(kill_one(emptied_kafka.broker, tmp_path, rounds=1, seed=1)) == 1


def test_s2_workers_killed_together_change_nothing(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    assert len(kill_all(emptied_kafka.broker, tmp_path, rounds=1, seed=2)) == 1


def test_s4_a_worker_that_was_stopped_changes_nothing(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    assert stop_and_continue(emptied_kafka.broker, tmp_path, quiet=True) == [("first", 1)]


def test_s6_a_killed_broker_loses_nothing(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    resumed, steady = kill_broker(emptied_kafka, tmp_path, rounds=1, seed=6)
    print(f"S6: the source resumed after {resumed} s, lag steady after {steady} s")  # noqa: T201 - the measurement
    assert len(resumed) == len(steady) == 1


def test_s7_a_log_that_lost_its_end_stops_the_worker(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    expected, missing, code, words = cut_the_log(emptied_kafka, tmp_path, cut_bytes=2_000, refill=True)
    assert missing == expected
    assert missing
    assert code not in {0, None}
    assert "impressions-0 holds another record at offset" in words
