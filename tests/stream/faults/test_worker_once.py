"""One round of each fault of the join worker; tests/system/test_worker_faults.py has the full counts."""

from pathlib import Path

import pytest

from deploy.kafka.local import LocalKafka
from tests.harness.rounds import cut_the_log, each_once

pytestmark = [pytest.mark.kafka, pytest.mark.no_cover]


def test_s1_s2_s6_s4_killed_and_stopped_workers_and_a_killed_broker_change_nothing(
    emptied_kafka: LocalKafka, tmp_path: Path
) -> None:
    assert each_once(emptied_kafka, tmp_path, seed=1) == [("first", 1)]


def test_s7_a_log_that_lost_its_end_stops_the_worker(emptied_kafka: LocalKafka, tmp_path: Path) -> None:
    expected, missing, code, words = cut_the_log(emptied_kafka, tmp_path, cut_bytes=2_000, refill=True)
    assert missing == expected
    assert missing
    assert code not in {0, None}
    assert "impressions-0 holds another record at offset" in words
