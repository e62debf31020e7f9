"""The log of a healthy worker: ten minutes idle and ten minutes under load without an error.

Faust's own checks for a standstill begin after five minutes.
"""

import time
from pathlib import Path

import pytest

from stream.broker.settings import Broker
from tests.harness.faults import Load, wait_until
from tests.harness.kafka import PARTITIONS
from tests.harness.worker import WorkerProcess, running, wait_until_committed

pytestmark = [pytest.mark.kafka, pytest.mark.system]
_MINUTES = 10
_QUERIES_PER_S = 200


def test_an_idle_worker_logs_no_error(fresh_kafka: Broker, tmp_path: Path) -> None:
    with running(fresh_kafka, tmp_path / "home", ticks="worker") as worker:
        wait_until(lambda: "owns partitions [" in worker.log, "its start", 60, lambda: worker.log)
        _watch(worker)
        assert worker.stop() == 0
        _check(worker)


def test_a_worker_under_load_logs_no_error(fresh_kafka: Broker, tmp_path: Path) -> None:
    with running(fresh_kafka, tmp_path / "home") as worker:
        wait_until(lambda: "owns partitions [" in worker.log, "its start", 60, lambda: worker.log)
        with Load(fresh_kafka, queries_per_s=_QUERIES_PER_S, partitions=PARTITIONS):
            _watch(worker)
        wait_until_committed(fresh_kafka, worker)
        assert worker.stop() == 0
        _check(worker)


def _watch(worker: WorkerProcess) -> None:
    deadline = time.monotonic() + _MINUTES * 60
    while time.monotonic() < deadline:
        assert worker.process.poll() is None, worker.log
        time.sleep(1)


def _check(worker: WorkerProcess) -> None:
    faults = [line for line in worker.log.splitlines() if "[error]" in line or "[critical]" in line]
    assert faults == []
    assert len(worker.log) < 100_000, "a log grows by what happens, not by time"
