"""`shelfwise trainer examination` on small generated files."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from stream.broker.admin import create_topics
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.operations.export import session_row
from stream.schemas import session, topics
from stream.schemas.session import Session
from tests.harness.kafka import PARTITIONS
from tests.harness.sessions import click, make_session
from tests.trainer.examination.logs import THETA, drawn


def sessions(count: int) -> list[Session]:
    """Shuffled lists of shoppers with the curve THETA."""
    rows = drawn(0, count)
    n = len(THETA)
    found = []
    for number in range(count):
        own = slice(number * n, (number + 1) * n)
        events = [click(f"e{number}-{item}", item) for item in np.flatnonzero(rows.is_clicked[own]).tolist()]
        one = make_session(f"q{number}", f"client-{number}", n=n, events=events)
        one.rank_in = (rows.stratum[own] + 1).astype("<u2").tobytes()
        one.propensity = np.full(n, 1 / n, "<f4").tobytes()
        found.append(one)
    return found


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "sessions.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(session_row(each)) + b"\n" for each in sessions(600)))
    return path


def run(*argv: str) -> str:
    done = CliRunner().invoke(app, ["trainer", "examination", *argv])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_shuffled_lists_give_a_table_a_document_and_a_page(log: Path, tmp_path: Path) -> None:
    argv = ["--data", str(log), "--method", "shuffle", "--resamples", "100", "--out", str(tmp_path / "out")]
    text = run(*argv)
    for words in ("examination by shuffle, sessions.jsonl", "effective clicks", "600 lists of 600 visits"):
        assert words in text
    printed = run(*argv, "--json")
    document = (tmp_path / "out" / "examination.json").read_bytes()
    assert msgspec.json.decode(printed) == msgspec.json.decode(document)
    assert msgspec.json.decode(document)["positions"][0]["examination"] == 1
    assert "<svg" in (tmp_path / "out" / "examination.html").read_text()
    again = run("--method", "file", "--curve", str(tmp_path / "out" / "examination.json"), "--json")
    assert msgspec.json.decode(again) == msgspec.json.decode(document)


def test_the_topic_gives_the_same_curve(log: Path, memory_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    # An address alone does not tell that the broker keeps its topics in memory.
    monkeypatch.setattr("deploy.kafka.choice.configured", lambda _context: memory_broker)
    create_topics(memory_broker, PARTITIONS)
    with Producer(memory_broker) as producer:
        for each in sessions(600):
            producer.send(topics.SESSIONS, key=each.client_id.encode(), value=session.encode(each))
    argv = ["--method", "shuffle", "--resamples", "100", "--json", "--data"]
    of_topic, of_file = (msgspec.json.decode(run(*argv, each))["positions"] for each in ("sessions", str(log)))
    assert [each["examination"] for each in of_topic] == pytest.approx([each["examination"] for each in of_file])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "guess"], "--method guess: expected swaps, shuffle, em, file"),
        (["--method", "swaps"], "--data is missing"),
        (["--method", "file"], "--curve is missing"),
        (["--method", "file", "--curve", "c.json", "--data", "d.jsonl"], "--data d.jsonl: not with --method file"),
        (["--method", "em", "--curve", "c.json", "--data", "d.jsonl"], "--curve c.json: only with --method file"),
        (["--method", "em", "--data", "absent.jsonl"], "absent.jsonl does not exist"),
    ],
)
def test_wrong_arguments_are_refused_by_name(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*argv)


def test_a_log_without_random_positions_is_refused(log: Path) -> None:
    with pytest.raises(ConfigError, match="examination by swaps: no list that it can use: 600 randomised in another"):
        run("--data", str(log), "--method", "swaps")
