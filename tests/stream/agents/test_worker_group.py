"""A worker in its group and by its own clock: standstill, static membership, ticks and probes."""

import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from deploy.demo.ports import PortReservation
from deploy.demo.scrape import ScrapeError, scrape
from stream.broker.admin import create_topics
from stream.broker.offsets import end_offsets
from stream.broker.settings import Broker
from stream.schemas import topics
from tests.harness.faults import wait_until
from tests.harness.groups import committed_offsets
from tests.harness.kafka import PARTITIONS, local_kafka
from tests.harness.worker import (
    GROUP,
    START_TS,
    Clicked,
    WorkerProcess,
    emitted,
    running,
    search,
    send,
    shopping,
    tick,
)

pytestmark = pytest.mark.kafka
_LIVE = {
    "SHELFWISE_JOIN__CLICK_WINDOW_S": "3",
    "SHELFWISE_JOIN__LATENESS_S": "1",
    "SHELFWISE_JOIN__WAIT_S": "1",
    "SHELFWISE_JOIN__IDLE_S": "2",
    "SHELFWISE_JOIN__PROGRESS_S": "1",
}


def test_a_partition_that_is_not_fetched_ends_the_worker(fresh_kafka: Broker, tmp_path: Path) -> None:
    send(fresh_kafka, list(shopping(300)))
    tick(fresh_kafka, START_TS + 300_000, 1)
    settings = {"SHELFWISE_WORKER__WATCHDOG_S": "4"}
    program = ("tests.harness.stalled_worker", topics.CLICKS, "1")
    with running(fresh_kafka, tmp_path / "home", settings=settings, program=program) as worker:
        assert worker.process.wait(timeout=90) == 1
        assert "clicks-1 has lag but has not moved from offset 0" in worker.log
    committed = committed_offsets(fresh_kafka, GROUP, [topics.CLICKS])
    ends = end_offsets(fresh_kafka, [topics.CLICKS])
    assert committed.get((topics.CLICKS, 1), 0) == 0 < ends[topics.CLICKS, 1]
    assert all(committed[pair] == end for pair, end in ends.items() if pair[1] != 1), "the others were read"


def test_the_first_worker_of_a_new_broker_logs_no_error(tmp_path: Path) -> None:
    """A new broker has no coordinator of groups until the first one asks for it."""
    kafka = local_kafka(tmp_path / "kafka")
    broker = kafka.start()
    try:
        create_topics(broker, PARTITIONS)
        with running(broker, tmp_path / "home") as worker:
            wait_until(lambda: "owns partitions [" in worker.log, "its start", 60, lambda: worker.log)
            assert worker.stop() == 0, worker.log
        assert "[error]" not in worker.log
    finally:
        kafka.stop()


def test_a_static_member_that_comes_back_in_time_moves_no_partition(fresh_kafka: Broker, tmp_path: Path) -> None:
    settings = {"SHELFWISE_WORKER__SESSION_S": "30"}
    reservation = PortReservation()
    port = reservation.reserve_any()

    def start(name: str, *options: str) -> WorkerProcess:
        return WorkerProcess(fresh_kafka, tmp_path / name, "--instance", name, *options, settings=settings)

    started: list[WorkerProcess] = []
    try:
        started += [watched := start("watched", "--metrics-port", str(port)), start("bounced")]
        wait_until(lambda: all("owns partitions [" in each.log for each in started), "both", 90)
        wait_until(lambda: len(_shares(port)) == 2, "its half of the partitions", 60, lambda: watched.log)
        rebalances, share = _rebalances(port), _shares(port)
        started[1].kill()
        before = len(started[1].log)
        started.append(bounced := start("bounced"))
        wait_until(lambda: "owns partitions [" in bounced.log[before:], "its return", 25, lambda: bounced.log)
        send(fresh_kafka, list(shopping(60)))
        ends = end_offsets(fresh_kafka, topics.EVENT_TOPICS)

        def all_read() -> bool:
            committed = committed_offsets(fresh_kafka, GROUP, topics.EVENT_TOPICS)
            return all(committed.get(pair, 0) == end for pair, end in ends.items())

        wait_until(all_read, "the records of both", 60, lambda: bounced.log)
        assert _rebalances(port) == rebalances, "the other member's generation ends with every rebalance"
        assert _shares(port) == share
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.kill()
        reservation.release()


def _rebalances(port: int) -> float:
    return scrape(port).total("shelfwise_join_rebalances_total")


def _shares(port: int) -> set[str]:
    """Partitions that a worker reports the lag of."""
    try:
        samples = scrape(port)
    except ScrapeError:
        return set()
    lags = [labels["partition"] for name, labels, _ in samples.values if name == "shelfwise_join_lag_offsets"]
    return set(lags)


def test_sessions_close_by_the_brokers_clock_without_a_driver(fresh_kafka: Broker, tmp_path: Path) -> None:
    reservation = PortReservation()
    port = reservation.reserve_any()
    options = ("--metrics-port", str(port))
    with running(fresh_kafka, tmp_path / "home", *options, settings=_LIVE, ticks="worker") as worker:
        answers: list[tuple[int, str]] = []

        def is_ready() -> bool:
            assert worker.process.poll() is None
            answers.append(_answer(port, "/readyz"))
            return answers[-1][0] == 200

        wait_until(is_ready, "readiness", 60, lambda: worker.log)
        assert "owns partitions [" in worker.log
        unready = {answer for answer in answers if answer[0] not in {0, 200}}
        assert unready <= {(503, "waiting for an assignment of partitions, or for its recovery\n")}
        assert (_answer(port, "/livez")[0], _answer(port, "/")[0]) == (200, 404)
        metrics = _answer(port, "/metrics")[1]
        assert "process_cpu_seconds_total" in metrics
        assert "_created" not in metrics
        sent_ts = time.time_ns() // 1_000_000
        send(fresh_kafka, [record for number in range(30) for record in _search(number, sent_ts)])
        wait_until(lambda: len(emitted(fresh_kafka)) == 30, "sessions", 60, lambda: worker.log)
        found = emitted(fresh_kafka)
        assert worker.stop() == 0, worker.log
    reservation.release()
    assert all(each.close_ts == sent_ts + 3_000 <= each.watermark_ts for each in found.values())
    assert {name for name, each in found.items() if any(each.clicks)} == {f"query-{n}" for n in range(0, 30, 3)}
    assert sum(end_offsets(fresh_kafka, [topics.UNJOINED, topics.DEAD_LETTERS]).values()) == 0


def _answer(port: int, path: str) -> tuple[int, str]:
    """Return status and body, status 0 while nothing listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except ConnectionError:
        return 0, ""
    finally:
        connection.close()


def _search(number: int, event_ts: int) -> list[tuple[str, bytes, bytes]]:
    click = Clicked(position=2, after_ms=200) if number % 3 == 0 else None
    return list(search(number, f"client-{number}", event_ts, ["item-1", "item-2"], click))
