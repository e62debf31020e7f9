"""The worker as a process: on a real Kafka with good and bad events, and on the memory broker."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from stream.agents.metrics import JoinMetrics
from stream.agents.settings import WorkerSettings
from stream.agents.worker import Worker
from stream.broker.offsets import end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.join.settings import JoinSettings
from stream.operations.export import export
from stream.schemas import topics
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
from tests.stream.faults.poison import NUM_POISON, payloads

NUM_QUERIES = 240
LAST_TS = START_TS + NUM_QUERIES * 1_000


@pytest.mark.kafka
def test_good_events_become_sessions_and_bad_ones_dead_letters(fresh_kafka: Broker, tmp_path: Path) -> None:
    """S11: 200 payloads that are no event go by one worker process, which is never started again."""
    good, bad = list(shopping(NUM_QUERIES)), payloads("client-1")
    with running(fresh_kafka, tmp_path / "home") as worker:
        with Producer(fresh_kafka) as producer:
            for number, (topic, key, value) in enumerate(good):
                producer.send(topic, key=key, value=value)
                for poison in bad[number :: len(good)]:
                    producer.send(poison.topic, key=poison.key, value=poison.value)
        wait_until_committed(fresh_kafka, worker)
        pass_all_windows(fresh_kafka, LAST_TS)
        wait_until_committed(fresh_kafka, worker)
        listening = _listening_sockets(worker.process.pid)
        assert worker.stop() == 0, worker.log

    assert listening == 0, "the worker opens no port but the metrics', which is switched off here"
    found = emitted(fresh_kafka)
    assert len(found) == NUM_QUERIES
    assert labels(found) == labels(undisturbed(fresh_kafka, PARTITIONS))
    dead_letters = list(read_to_end(fresh_kafka, topics.DEAD_LETTERS))
    reasons = sorted(dict(each.headers)["reason"].decode() for each in dead_letters)
    assert reasons == sorted(poison.reason for poison in bad)
    kept = Counter((each.key, each.value) for each in dead_letters)
    assert kept == Counter((p.key, p.value[:1_024] if p.value and p.reason == "too_large" else p.value) for p in bad)
    assert sum(end_offsets(fresh_kafka, [topics.UNJOINED]).values()) == 0

    _check_exports(fresh_kafka, tmp_path, num_dead_letters=NUM_POISON)


def _check_exports(broker: Broker, folder: Path, *, num_dead_letters: int) -> None:
    table, lines = folder / "sessions.parquet", folder / "sessions.jsonl"
    assert export(broker, topics.SESSIONS, table, latest=True) == NUM_QUERIES
    assert export(broker, topics.SESSIONS, lines, latest=True) == NUM_QUERIES
    frame = pl.read_parquet(table)
    assert frame["clicks"].list.sum().sum() == NUM_QUERIES // 3
    assert frame["gross_minor"].list.sum().sum() == NUM_QUERIES // 6 * 1_002
    assert frame["refund_minor"].list.sum().sum() == NUM_QUERIES // 12 * 1_002
    assert {msgspec.json.decode(line)["query_id"] for line in lines.read_bytes().splitlines()} == set(frame["query_id"])
    assert export(broker, topics.DEAD_LETTERS, folder / "dead.jsonl") == num_dead_letters
    assert export(broker, topics.UNJOINED, folder / "unjoined.parquet") == 0


@pytest.mark.kafka
def test_a_worker_without_topics_names_the_remedy(kafka_broker: Broker, tmp_path: Path) -> None:
    from stream.broker.admin import create_topics, delete_topics

    delete_topics(kafka_broker)
    try:
        with running(kafka_broker, tmp_path / "home") as worker:
            assert worker.process.wait(timeout=60) == 2
        assert "shelfwise kafka topics" in worker.log
    finally:
        create_topics(kafka_broker, PARTITIONS)


@pytest.mark.kafka
def test_produce_sends_the_good_lines_and_names_the_others(
    fresh_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    clicks = [value for topic, _, value in shopping(30) if topic == topics.CLICKS]
    file = tmp_path / "clicks.jsonl"
    file.write_bytes(b"\n".join([*clicks[:3], b'{"event_id": 7}', *clicks[3:]]) + b"\n")

    strict = CliRunner().invoke(app, ["stream", "produce", "clicks", "--file", str(file)])
    assert strict.exit_code == 1
    assert "line 4" in strict.stderr
    assert _values(fresh_kafka) == sorted(clicks)

    raw = CliRunner().invoke(app, ["stream", "produce", "clicks", "--file", str(file), "--raw", "--json"])
    assert raw.exit_code == 0
    assert msgspec.json.decode(raw.stdout) == {"sent": len(clicks) + 1, "refused": []}
    assert len(_values(fresh_kafka)) == 2 * len(clicks) + 1


def _values(broker: Broker) -> Sequence[bytes]:
    return sorted(record.value or b"" for record in read_to_end(broker, topics.CLICKS))


@pytest.mark.slow
def test_the_memory_broker_carries_the_worker(memory_broker: Broker, tmp_path: Path) -> None:
    with running(memory_broker, tmp_path / "home") as worker:
        send(memory_broker, list(shopping(NUM_QUERIES)))
        wait_until_committed(memory_broker, worker)
        pass_all_windows(memory_broker, LAST_TS)
        wait_until_committed(memory_broker, worker)
        assert worker.stop() == 0, worker.log

    assert labels(emitted(memory_broker)) == labels(undisturbed(memory_broker, PARTITIONS))


def test_a_worker_without_an_assignment_is_not_ready(memory_broker: Broker, tmp_path: Path) -> None:
    worker = Worker(memory_broker, WorkerSettings(), JoinSettings(), folder=tmp_path, metrics=JoinMetrics())
    assert worker.unready_reason() == "waiting for an assignment of partitions, or for its recovery"


def _listening_sockets(pid: int) -> int:
    owned = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            owned.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return sum(1 for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in owned)
