"""Commands on a Kafka that refuses them: the cause is named, and the exit code tells its kind."""

import subprocess
import sys
from pathlib import Path

import pytest
from kafka.admin import ACLOperation, ResourceType

from deploy import cli, configuration
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.schemas import topics
from tests.harness.kafka import PARTITIONS
from tests.harness.secured_kafka import GUEST, SecuredKafka, secured_kafka

__all__ = ["secured_kafka"]

pytestmark = pytest.mark.kafka

LINES = '{"event_id": "e1"}\n'
# `doctor` reports the same causes as failed checks.
COMMANDS = {
    "topics": (["kafka", "topics"], 1),
    "produce": (["stream", "produce", "clicks", "--file", "clicks.jsonl", "--raw"], 1),
    "export": (["stream", "export", "sessions", "--out", "sessions.jsonl"], 1),
    "doctor": (["doctor"], 3),
}
ALL_TOPICS = (ResourceType.TOPIC, "*")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.jsonl").write_text(LINES)
    return tmp_path


@pytest.fixture
def run(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], secured_kafka: SecuredKafka
) -> "_Run":
    return _Run(monkeypatch, capfd, secured_kafka)


class _Run:
    """Runs a command in this process as its entry point does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kafka: SecuredKafka) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self._kafka = kafka

    def __call__(self, arguments: list[str], broker: Broker) -> tuple[int, str]:
        for name, value in self._kafka.environment(broker).items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setattr(sys, "argv", ["shelfwise", *arguments])
        self._monkeypatch.setenv("COLUMNS", "2000")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = self._capfd.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_password_is_named(run: _Run, secured_kafka: SecuredKafka, command: str) -> None:
    arguments, exit_code = COMMANDS[command]
    code, text = run(arguments, secured_kafka.broker(password="mistyped"))
    assert (code, "the broker refused kafka.username 'owner' with its kafka.password" in text) == (exit_code, True), (
        text
    )
    assert "invalid credentials with SASL mechanism SCRAM-SHA-512" in text
    assert "Unable to bootstrap" not in text
    assert "mistyped" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_an_untrusted_certificate_is_named(run: _Run, secured_kafka: SecuredKafka, command: str) -> None:
    arguments, exit_code = COMMANDS[command]
    code, text = run(arguments, secured_kafka.broker(ca_file=secured_kafka.other_ca_file))
    assert code == exit_code, text
    assert f"is not trusted by kafka.ca_file ({secured_kafka.other_ca_file})" in text
    assert "Unable to bootstrap" not in text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_is_named(
    run: _Run, secured_kafka: SecuredKafka, home: Path, command: str, content: str | None
) -> None:
    path = home / "ca.pem"
    if content is not None:
        path.write_text(content)
    arguments, _ = COMMANDS[command]
    code, text = run(arguments, secured_kafka.broker(ca_file=path))
    assert code == (3 if command == "doctor" else 2), text
    fault = "the file does not exist" if content is None else "expected certificates in PEM form"
    assert f"kafka.ca_file = '{path}': {fault}" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_topics_that_acls_hide_are_named(run: _Run, secured_kafka: SecuredKafka, command: str) -> None:
    """A list of all topics would leave them out, as if they did not exist."""
    arguments, exit_code = COMMANDS[command]
    code, text = run(arguments, secured_kafka.broker(user=GUEST))
    assert code == exit_code, text
    assert "no ACL allows user 'guest' to see topic" in text
    assert "run `shelfwise kafka topics`" not in text


@pytest.mark.parametrize("command", ["produce", "export"])
def test_a_refused_operation_is_named(run: _Run, secured_kafka: SecuredKafka, command: str) -> None:
    arguments, exit_code = COMMANDS[command]
    with Producer(secured_kafka.owner) as producer:
        producer.send(topics.SESSIONS, key=b"c1", value=b"a record that must be read")
    # The right to write anywhere is enough to start an idempotent producer.
    write_ticks = (ResourceType.TOPIC, topics.TICKS, ACLOperation.WRITE)
    with secured_kafka.granted((*ALL_TOPICS, ACLOperation.DESCRIBE), write_ticks):
        code, text = run(arguments, secured_kafka.broker(user=GUEST))
    assert code == exit_code, text
    assert "no ACL allows user 'guest' to do this on the topic" in text


def test_the_owner_may_do_all(run: _Run, secured_kafka: SecuredKafka) -> None:
    assert run(COMMANDS["topics"][0], secured_kafka.owner)[0] == 0
    assert run(COMMANDS["produce"][0], secured_kafka.owner)[0] == 0
    assert run(["stream", "export", "unjoined", "--out", "unjoined.jsonl"], secured_kafka.owner)[0] == 0
    assert f"{len(topics.ALL)} topics, {PARTITIONS} partitions" in run(COMMANDS["doctor"][0], secured_kafka.owner)[1]


@pytest.mark.parametrize("fault", ["password", "certificate", "hidden", "group", "read"])
def test_the_worker_names_the_refusal(home: Path, secured_kafka: SecuredKafka, fault: str) -> None:
    brokers = {
        "password": secured_kafka.broker(password="mistyped"),
        "certificate": secured_kafka.broker(ca_file=secured_kafka.other_ca_file),
    }
    grants = {
        "group": [
            (*ALL_TOPICS, operation) for operation in (ACLOperation.DESCRIBE, ACLOperation.READ, ACLOperation.WRITE)
        ],
        "read": [
            *((*ALL_TOPICS, operation) for operation in (ACLOperation.DESCRIBE, ACLOperation.WRITE)),
            (ResourceType.GROUP, "*", ACLOperation.READ),
        ],
    }
    expected = {
        "password": "the broker refused kafka.username 'owner' with its kafka.password",
        "certificate": "is not trusted by kafka.ca_file",
        "hidden": f"no ACL allows user 'guest' to see topic {topics.IMPRESSIONS}",
        "group": "no ACL allows user 'guest' to do this on the consumer group",
        "read": "no ACL allows user 'guest' to do this on the topic",
    }
    broker = brokers.get(fault, secured_kafka.broker(user=GUEST))
    settings = {**secured_kafka.environment(broker), "SHELFWISE_WORKER__METRICS_PORT": "0"}
    with secured_kafka.granted(*grants.get(fault, [])):
        ended = subprocess.run(
            [sys.executable, "-c", "from deploy.cli import main; main()", "stream", "worker"],
            cwd=home,
            env={**configuration.environment(), **settings},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 1, ended.stderr
    assert expected[fault] in ended.stderr.replace("\n", " "), ended.stderr
