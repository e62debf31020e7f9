"""kill -9 of the worker, and of the broker, while events flow: nothing is lost and nothing is doubled."""

from pathlib import Path

import pytest

from stream.broker.offsets import end_offsets
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.operations.recount import recount
from stream.schemas import topics
from tests.harness.faults import newest_counters
from tests.harness.kafka import PARTITIONS
from tests.harness.worker import (
    START_TS,
    emitted,
    labels,
    pass_all_windows,
    running,
    send,
    shopping,
    undisturbed,
    wait_until_committed,
)

pytestmark = [pytest.mark.kafka, pytest.mark.system]
NUM_QUERIES = 6_000
LAST_TS = START_TS + NUM_QUERIES * 1_000


def test_sessions_after_kills_equal_those_of_an_undisturbed_run(fresh_kafka: Broker, tmp_path: Path) -> None:
    records = list(shopping(NUM_QUERIES))
    third = len(records) // 3
    kills = 0
    for start in range(0, len(records), third):
        send(fresh_kafka, records[start : start + third])
        with running(fresh_kafka, tmp_path / "home") as worker:
            # Killed as soon as a part of this third is acknowledged, so that micro-batches are in flight.
            wait_until_committed(fresh_kafka, worker, num_records=start + third // 4)
            worker.kill()
            kills += 1
    assert kills >= 3

    with running(fresh_kafka, tmp_path / "home") as worker:
        wait_until_committed(fresh_kafka, worker)
        pass_all_windows(fresh_kafka, LAST_TS)
        wait_until_committed(fresh_kafka, worker)
        assert worker.stop() == 0, worker.log

    _check(fresh_kafka)


def test_workers_that_join_and_die_lose_nothing(fresh_kafka: Broker, tmp_path: Path) -> None:
    records = list(shopping(NUM_QUERIES))
    half = len(records) // 2
    with running(fresh_kafka, tmp_path / "first") as first, running(fresh_kafka, tmp_path / "second") as second:
        send(fresh_kafka, records[:half])
        wait_until_committed(fresh_kafka, second, num_records=half // 4)
        first.kill()
        send(fresh_kafka, records[half:])
        wait_until_committed(fresh_kafka, second)
        pass_all_windows(fresh_kafka, LAST_TS)
        wait_until_committed(fresh_kafka, second)
        assert second.stop() == 0, second.log

    _check(fresh_kafka)


def _check(broker: Broker) -> None:
    found = emitted(broker)
    assert len(found) == NUM_QUERIES
    assert labels(found) == labels(undisturbed(broker, PARTITIONS))
    assert sum(end_offsets(broker, [topics.UNJOINED, topics.DEAD_LETTERS]).values()) == 0
    produced = sum(end_offsets(broker, topics.EVENT_TOPICS).values())
    counters = newest_counters(broker)
    assert counters["produced"] == counters["joined"] == produced
    names = (*topics.EVENT_TOPICS, topics.SESSIONS, topics.UNJOINED, topics.DEAD_LETTERS)
    recounted = recount(record for name in names for record in read_to_end(broker, name))
    assert recounted.is_closed
    assert recounted.produced == recounted.joined == produced
