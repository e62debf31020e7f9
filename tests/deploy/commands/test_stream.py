"""`shelfwise stream verify` and `recount` on a real Kafka: exit codes and what they print."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas import events, session, topics
from stream.schemas.session import Session
from tests.harness.worker import pass_all_windows, running, tick, wait_until_committed
from tests.laws.join_log import CLIENTS, START_TS, click, impression

KEY = CLIENTS[0].encode()


@pytest.fixture
def joined(fresh_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """Two lists, of which the first is clicked, joined by a worker; the command speaks to this broker."""
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    with Producer(fresh_kafka) as producer:
        for number in (1, 2):
            producer.send(topics.IMPRESSIONS, key=KEY, value=events.encode(impression(number, at_s=number * 60)))
        producer.send(topics.CLICKS, key=KEY, value=events.encode(click(3, 1, "item-0", at_s=70)))
    with running(fresh_kafka, tmp_path / "worker") as worker:
        tick(fresh_kafka, START_TS + 200_000, 0)
        wait_until_committed(fresh_kafka, worker)
        pass_all_windows(fresh_kafka, START_TS + 300_000)
        wait_until_committed(fresh_kafka, worker)
        assert worker.stop() == 0, worker.log
    return fresh_kafka


def _stream(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["stream", *arguments], terminal_width=200)


def _verdict(*arguments: str, exit_code: int = 0) -> dict[str, object]:
    done = _stream("verify", *arguments, "--json")
    assert done.exit_code == exit_code, done.output
    return msgspec.json.decode(done.stdout, type=dict[str, object])


@pytest.mark.kafka
def test_what_the_join_wrote_is_found_again_and_what_is_forged_is_named(joined: Broker) -> None:
    assert (_verdict()["expected"], _verdict()["emitted"]) == (2, 2)
    second_s = START_TS // 1_000 + 120
    assert _verdict("--from", f"{second_s * 1_000}")["expected"] == 1
    assert _verdict("--to", f"{second_s * 1_000}")["expected"] == 1
    assert _verdict("--to", "2020-01-01T00:00Z")["expected"] == 0
    shown = _stream("verify")
    assert "equal" in shown.stdout
    assert "differing" in shown.stdout
    assert "Comparison(" not in shown.stdout
    counted = _stream("recount")
    assert counted.exit_code == 0
    assert "closed" in counted.stdout

    forged = _sessions(joined)[0]
    assert forged.events, "the clicked one"
    with Producer(joined) as producer:
        bare = msgspec.structs.replace(forged, revision=forged.revision + 1, events=[], query_id="query-nobody-made")
        producer.send(topics.SESSIONS, key=KEY, value=session.encode(bare))
    verdict = _verdict(exit_code=3)
    assert (verdict["extra"], verdict["is_equal"], verdict["examples"]) == (1, False, ["query-nobody-made"])
    shown = _stream("verify")
    assert shown.exit_code == 3
    assert "query-nobody-made" in shown.stdout


WITHOUT_KAFKA = [
    ["stream", "recount"],
    ["stream", "verify"],
    ["stream", "export", "sessions", "--out", "out.jsonl"],
    ["stream", "produce", "clicks", "--file", "-"],
    ["stream", "ingest", "--format", "shelfwise", "-"],
    ["stream", "dead-letters", "list"],
    ["stream", "dead-letters", "show", "clicks", "0", "0"],
    ["stream", "dead-letters", "redrive"],
    ["stream", "worker"],
    ["kafka", "topics"],
    ["marketplace", "run"],
]


@pytest.mark.parametrize("has_java", [True, False])
@pytest.mark.parametrize("command", WITHOUT_KAFKA, ids=" ".join)
def test_a_command_without_kafka_fails_by_name_and_starts_nothing(
    command: list[str], has_java: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("deploy.kafka.jars.java", lambda: "/usr/bin/java" if has_java else None)
    line = (Path(__file__).parents[3] / "docs/examples/clicks.jsonl").read_bytes()
    done = CliRunner().invoke(app, command, input=line)
    assert isinstance(done.exception, BusError), done.output
    assert f"kafka.broker = auto: no local Kafka runs in {tmp_path / 'home'}" in str(done.exception)
    assert ("no Java 17" in str(done.exception)) is not has_java
    assert "`shelfwise kafka up`" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.kafka
def test_a_reader_that_finds_nothing_says_where_it_looked(
    fresh_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    for command in (
        ["recount"],
        ["verify"],
        ["export", "sessions", "--out", str(tmp_path / "out.jsonl")],
        ["dead-letters", "list"],
    ):
        done = _stream(*command)
        assert done.exit_code == 0, done.output
        assert f"broker {fresh_kafka.bootstrap}, home {tmp_path / 'home'}" in done.stderr


@pytest.mark.parametrize("text", ["yesterday", "2020-01-01T00:00"])
def test_a_time_that_is_none_is_named(text: str) -> None:
    refused = _stream("verify", "--from", text)
    assert refused.exit_code == 2
    assert text in refused.output
    assert "--from" in refused.output


def _sessions(broker: Broker) -> list[Session]:
    found = (session.decode(record.value or b"") for record in read_to_end(broker, topics.SESSIONS))
    return sorted((one for one in found if isinstance(one, Session)), key=lambda one: -len(one.events))


@pytest.mark.kafka
def test_a_file_without_events_fails(kafka_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFWISE_BROKER", kafka_broker.bootstrap)
    (tmp_path / "empty").write_bytes(b"\n")
    done = _stream("produce", "clicks", "--file", str(tmp_path / "empty"))
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (1, f"error: no events in {tmp_path / 'empty'}")


@pytest.mark.kafka
@pytest.mark.parametrize("name", ["sessions.jsonl", "sessions.parquet"])
def test_an_unwritable_output_is_named_with_its_option(
    name: str, kafka_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_BROKER", kafka_broker.bootstrap)
    (tmp_path / "file").touch()
    out = tmp_path / "file" / name
    done = _stream("export", "sessions", "--out", str(out))
    assert (done.exit_code, done.stderr.splitlines()[-1].startswith(f"error: --out {out}: ")) == (1, True)
