"""`shelfwise stream replay` with a real Kafka and a real worker whose clock the replay drives."""

import gzip
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas import topics
from tests.harness.kafka import PARTITIONS
from tests.harness.transactions import begin, produce_to
from tests.harness.worker import START_TS, emitted, running

NUM_LISTS = 120
# Four click windows, so that sessions close while others are open; each half minute costs a tick of every partition.
SPAN_S = 3_600


def event(name: str, at_s: float, number: int, **params: object) -> dict[str, object]:
    items = params.pop("items", [{"item_id": f"item-{number % 50}", "price": 12.5, "quantity": 1, "index": 0}])
    known = {"query_id": f"query-{number}", **params}
    return {
        "event_name": name,
        "event_timestamp": str((START_TS + round(at_s * 1_000)) * 1_000),
        "user_pseudo_id": f"client-{number % 20}",
        "event_params": [{"key": key, "value": {"string_value": str(value)}} for key, value in known.items()],
        "items": items,
    }


def hours() -> list[bytes]:
    """Return lists over an hour, clicks, orders of clicked and other lists, and one bad row, in random order."""
    rows: list[object] = []
    for number in range(NUM_LISTS):
        at_s = number * SPAN_S / NUM_LISTS
        shown = [{"item_id": f"item-{(number + k) % 50}", "price": 12.5, "index": k} for k in range(4)]
        rows.append(event("view_item_list", at_s, number, items=shown))
        if number % 2 == 0:
            rows.append(event("select_item", at_s + 20, number))
        if number % 3 == 0:
            rows.append(event("purchase", at_s + 300, number, transaction_id=f"t-{number}", currency="EUR", value=12.5))
    rows.append({"event_name": "select_item", "event_timestamp": "x"})
    order = np.random.default_rng(5).permutation(len(rows))
    return [json.dumps(rows[at]).encode() for at in order]


def replay(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["stream", "replay", *arguments])


@pytest.fixture
def broker(fresh_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    return fresh_kafka


@pytest.mark.kafka
def test_unsorted_hours_are_joined_exactly(broker: Broker, tmp_path: Path) -> None:
    rows = hours()
    (tmp_path / "part-0.jsonl").write_bytes(b"\n".join(rows[:100]))
    (tmp_path / "part-1.jsonl.gz").write_bytes(gzip.compress(b"\n".join(rows[100:])))
    with running(broker, tmp_path / "worker") as worker:
        done = replay("--format", "ga4", str(tmp_path / "part-*"), "--json")
        assert done.exit_code == 0, done.output + worker.log
        assert worker.stop() == 0
    books = msgspec.json.decode(done.stdout)
    counted = books["recount"]
    num_events = NUM_LISTS + NUM_LISTS // 2 + NUM_LISTS // 3
    assert (counted["produced"], counted["joined"], counted["is_closed"]) == (num_events, num_events, True)
    assert (books["payloads"], books["dead_letters"]) == (num_events + 1, 1)
    assert sum(1 for _ in read_to_end(broker, topics.DEAD_LETTERS)) == 1
    found = emitted(broker)
    assert len(found) == NUM_LISTS
    assert sum(sum(each.clicks) for each in found.values()) == NUM_LISTS // 2
    assert sum(sum(each.orders) for each in found.values()) == NUM_LISTS // 3
    verified = CliRunner().invoke(app, ["stream", "verify", "--json"])
    assert verified.exit_code == 0, verified.output
    assert msgspec.json.decode(verified.stdout)["late_arrivals"] == 0
    again = replay("--format", "ga4", str(tmp_path / "part-0.jsonl"))
    assert again.exit_code == 1
    assert "the clock of these topics stands at 2023-11" in again.stderr
    assert "topics of their own" in again.stderr


@pytest.mark.no_cover
@pytest.mark.kafka
def test_topics_that_end_in_transaction_markers_are_replayed_to_the_end(broker: Broker, tmp_path: Path) -> None:
    """The clicks hold aborted records alone, so that only the ticks can tell that the topic is read."""
    producer = begin(broker, "aborted")
    produce_to(producer, topics.CLICKS, range(PARTITIONS), 20)
    producer.abort_transaction()
    (tmp_path / "lists").write_bytes(b"\n".join(row for row in hours() if b"view_item_list" in row))
    with running(broker, tmp_path / "worker") as worker:
        done = replay("--format", "ga4", str(tmp_path / "lists"), "--json", "--patience-s", "30")
        assert done.exit_code == 0, done.output + worker.log
        assert worker.stop() == 0
    assert msgspec.json.decode(done.stdout)["recount"]["joined"] == NUM_LISTS


@pytest.mark.kafka
def test_without_a_worker_the_replay_says_so(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"\n".join(hours()[:20]))
    done = replay("--format", "ga4", str(tmp_path / "events"), "--patience-s", "1")
    assert done.exit_code == 1
    assert "no worker with `--ticks driver` answers" in done.stderr


@pytest.mark.kafka
def test_a_file_without_a_usable_event_fails_and_writes_no_tick(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b'{"event_name": "page_view"}\n')
    done = replay("--format", "ga4", str(tmp_path / "events"))
    assert done.exit_code == 1
    assert "none of 1 payloads" in done.stderr
    assert not list(read_to_end(broker, topics.TICKS))


@pytest.mark.kafka
def test_a_file_without_events_fails(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "events [a]").write_bytes(b"\n")
    done = replay("--format", "ga4", str(tmp_path / "events [a]"))
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, f"error: no events in {tmp_path / 'events [a]'}")
    assert not list(read_to_end(broker, topics.TICKS))


@pytest.mark.parametrize("arguments", [["--help"], ["trivago", "--help"], ["files", "--help"]])
def test_help(arguments: list[str]) -> None:
    assert replay(*arguments).exit_code == 0
