"""Faults of the join worker, each as often as its criterion demands: S1, S2 and S4 to S7 of tests/README.md."""

from pathlib import Path

import pytest

from deploy.kafka.local import LocalKafka
from tests.harness.rounds import (
    come_and_go,
    cut_the_log,
    kill_all,
    kill_broker,
    kill_one,
    stop_and_continue,
)

pytestmark = [pytest.mark.kafka, pytest.mark.system]


def test_s1_twenty_kills_of_one_of_two_workers(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    taken = kill_one(emptied_kafka.broker, tmp_path, rounds=20, seed=101)
    print(f"S1: lag steady after {taken} s")  # noqa: T201 - the measurement
    assert len(taken) == 20


def test_s2_ten_kills_of_all_workers(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    taken = kill_all(emptied_kafka.broker, tmp_path, rounds=10, seed=102)
    print(f"S2: lag steady after {taken} s")  # noqa: T201 - the measurement
    assert len(taken) == 10


def test_s4_a_worker_continues_under_load(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    assert stop_and_continue(emptied_kafka.broker, tmp_path, quiet=False) == [("first", 1)]


def test_s4_a_worker_continues_when_all_is_done(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    assert stop_and_continue(emptied_kafka.broker, tmp_path, quiet=True) == [("first", 1)]


def test_s5_workers_come_and_go_for_two_minutes(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    steady_s, oldest_s = come_and_go(emptied_kafka.broker, tmp_path, for_s=120.0, every_s=5.0)
    # `come_and_go` asserts that nothing is lost and that no worker exits; the times depend on the machine.
    print(f"S5: oldest unprocessed event {oldest_s:.1f} s, {steady_s:.1f} s in lone rebalances")  # noqa: T201
    assert min(steady_s, oldest_s) > 0


def test_s6_five_kills_of_the_broker(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    taken = kill_broker(emptied_kafka, tmp_path, rounds=5, seed=106)
    print(f"S6: the source resumed, and the lag was steady, after {taken} s")  # noqa: T201 - the measurement
    assert len(taken) == 5


@pytest.mark.parametrize("cut_bytes", [1, 5_000, 30_000])
def test_s7_a_running_worker_notices_what_the_log_has_lost(
    emptied_kafka: LocalKafka, tmp_path: Path, cut_bytes: int
) -> None:
    expected, missing, code, words = cut_the_log(emptied_kafka, tmp_path, cut_bytes=cut_bytes, refill=False)
    assert missing == expected
    assert missing
    assert code == 1
    assert "impressions-0" in words


def test_s7_a_starting_worker_notices_what_was_written_in_its_place(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    expected, missing, code, words = cut_the_log(emptied_kafka, tmp_path, cut_bytes=5_000, refill=True)
    assert missing == expected
    assert missing
    assert code == 1
    assert "impressions-0 holds another record at offset" in words
