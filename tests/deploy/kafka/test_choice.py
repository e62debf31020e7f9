"""The choice of a broker, refused addresses, and a local Kafka that is killed."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.configuration import load
from deploy.kafka import choice, jars
from deploy.kafka.choice import find, start
from deploy.kafka.settings import LocalKafkaSettings
from stream.broker.admin import create_topics, partition_counts
from stream.broker.connection import is_reachable
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker, KafkaSettings
from stream.errors import BusError, ConfigError
from stream.schemas import topics
from tests.harness.kafka import JARS, PARTITIONS, local_kafka

LOCAL = LocalKafkaSettings(port=0)


def test_an_address_on_this_machine_is_taken_as_it_is(tmp_path: Path) -> None:
    for address in ("127.0.0.1:9092", "localhost:1,127.0.0.1:2", "[::1]:9092"):
        for choose in (find, start):
            assert choose(KafkaSettings(broker=address), LOCAL, tmp_path) == Broker(bootstrap=address)


@pytest.mark.parametrize("address", ["kafka", "kafka:", ":9092", "host:port", "memory@", "127.0.0.1:1,x"])
def test_what_is_no_address_is_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        find(KafkaSettings(broker=address), LOCAL, tmp_path)


def test_plain_text_over_a_network_needs_a_word(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kafka\.allow_plaintext"):
        find(KafkaSettings(broker="127.0.0.1:1,kafka.example:9092"), LOCAL, tmp_path)
    allowed = find(KafkaSettings(broker="kafka.example:9092", allow_plaintext=True), LOCAL, tmp_path)
    assert allowed.bootstrap == "kafka.example:9092"


def test_security_settings_reach_the_clients(tmp_path: Path) -> None:
    settings = KafkaSettings(
        broker="kafka.example:9093",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-256",
        username="shelfwise",
        password="secret",
    )
    broker = find(settings, LOCAL, tmp_path)
    assert broker.client_config() == {
        "bootstrap_servers": ["kafka.example:9093"],
        "reconnect_backoff_max_ms": 1_000,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "shelfwise",
        "sasl_plain_password": "secret",
    }
    assert "secret" not in repr(broker)
    with pytest.raises(ValueError, match="needs sasl_mechanism and username"):
        KafkaSettings(security_protocol="SASL_SSL")


@pytest.mark.slow
def test_the_demo_hosts_a_memory_broker_and_warns(tmp_path: Path) -> None:
    lines: list[str] = []
    broker = start(KafkaSettings(broker="memory", partitions=PARTITIONS), LOCAL, tmp_path, lines.append)
    try:
        assert broker.memory
        assert any("nothing is durable" in line for line in lines)
        assert partition_counts(broker)[topics.CLICKS] == PARTITIONS
        other = find(KafkaSettings(broker=f"memory@{broker.bootstrap}"), LOCAL, tmp_path)
        assert other == broker
    finally:
        choice._hosted.pop().close()


@pytest.mark.slow
def test_the_demo_falls_back_to_memory_without_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines: list[str] = []
    assert start(KafkaSettings(partitions=PARTITIONS), LOCAL, tmp_path, lines.append).memory
    choice._hosted.pop().close()
    assert "no Java 17" in lines[0]
    with pytest.raises(BusError, match="needs Java 17"):
        start(KafkaSettings(broker="local"), LOCAL, tmp_path, lines.append)


@pytest.mark.parametrize("named", ["auto", "local"])
def test_a_broker_that_does_not_run_is_refused_with_its_home_and_the_remedy(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with pytest.raises(BusError, match=f"kafka.broker = {named}: no local Kafka runs in {home}") as refused:
        find(KafkaSettings(broker=named), LOCAL, home)
    assert "SHELFWISE_HOME" in str(refused.value)
    assert "`shelfwise kafka up`" in str(refused.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BusError, match=f"kafka.broker = {named}: .*no Java 17.*`shelfwise kafka memory`"):
        find(KafkaSettings(broker=named), LOCAL, home)
    assert not home.exists()
    assert not choice._hosted


def test_a_command_hosts_no_memory_broker(tmp_path: Path) -> None:
    with pytest.raises(BusError, match=r"kafka\.broker = memory: .*`shelfwise kafka memory`.*memory@HOST:PORT"):
        find(KafkaSettings(broker="memory"), LOCAL, tmp_path)
    assert not choice._hosted


@pytest.mark.kafka
def test_the_local_kafka_of_the_home_is_found_while_it_runs(kafka_home: Path, kafka_broker: Broker) -> None:
    assert find(KafkaSettings(), LOCAL, kafka_home) == kafka_broker
    assert find(KafkaSettings(broker="local"), LOCAL, kafka_home) == kafka_broker


@pytest.mark.kafka
@pytest.mark.system
def test_records_survive_a_killed_broker(tmp_path: Path) -> None:
    kafka = local_kafka(tmp_path / "kafka")
    broker = kafka.start()
    try:
        create_topics(broker, PARTITIONS)
        with Producer(broker) as producer:
            for number in range(1_000):
                producer.send(topics.CLICKS, key=b"c%d" % number, value=b"%d" % number)
        killed = kafka.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)

        # Another object, as another command would: it finds the folder, not the process.
        again = local_kafka(tmp_path / "kafka")
        broker = again.start()
        assert again.pid not in {None, killed}
        assert sorted(int(r.value or b"") for r in read_to_end(broker, topics.CLICKS)) == list(range(1_000))
    finally:
        assert local_kafka(tmp_path / "kafka").stop()
    assert not is_reachable(broker)
    assert not kafka.stop(), "a second stop finds nothing"


@pytest.mark.kafka
@pytest.mark.parametrize("name", ["jos\u00e9 \u65e5,a:b\\c"])
def test_the_path_of_the_home_may_hold_any_letter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    folder = tmp_path / name / "kafka"
    kafka = local_kafka(folder)
    try:
        for number in range(2):
            broker = kafka.start()
            if number == 0:
                create_topics(broker, 1)
            with Producer(broker) as producer:
                producer.send(topics.CLICKS, key=b"c", value=b"%d" % number)
            assert [record.value for record in read_to_end(broker, topics.CLICKS)] == [b"0", b"1"][: number + 1]
            assert kafka.stop()
    finally:
        kafka.stop()
    assert (folder / "data" / "meta.properties").is_file()
    assert (folder / "kafka.log").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BusError, match=f"{tmp_path}/file/kafka: Not a directory; set SHELFWISE_HOME"):
        local_kafka(tmp_path / "file" / "kafka").start()


@pytest.mark.kafka
def test_a_stop_never_signals_a_process_that_is_not_ours(tmp_path: Path) -> None:
    folder = tmp_path / "kafka"
    folder.mkdir()
    (folder / "kafka.pid").write_text(str(os.getpid()))
    assert not local_kafka(folder).stop()
    assert local_kafka(folder).status().pid is None


def test_the_recorded_jars_are_those_of_the_pinned_release() -> None:
    from deploy.kafka.jars import expected

    assert "kafka_2.13-4.3.1.jar" in expected()
    assert "log4j-slf4j-impl-2.25.4.jar" in expected()
    assert JARS.name == "jars"


def test_jars_arrive_in_a_folder_that_is_named_relatively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maven resolves a relative output folder against the POM's own, here played by a stand-in that links the jars."""
    from deploy.kafka import jars

    jars.ensure(JARS, lambda _line: None)
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text(
        "#!/bin/sh\n"
        'for word; do case "$word" in -DoutputDirectory=*) out=${word#*=};; */pom.xml) pom=$word;; esac; done\n'
        f'cd "$(dirname "$pom")" && mkdir -p "$out" && cp {JARS}/*.jar "$out"\n'
    )
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{maven.parent}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert jars.missing(jars.ensure(Path("home/kafka/jars"), lambda _line: None)) == []
    assert jars.missing(tmp_path / "home" / "kafka" / "jars") == []


def test_a_full_disk_is_named_before_and_behind_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    called = load()
    assert choice.fault(called) is None
    (tmp_path / "kafka").mkdir()
    assert choice.fault(called) is None
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=(16 << 20) - 1))
    assert choice.fault(load(None, {"kafka.broker": "127.0.0.1:9092"})) is None
    named = (
        f"no space left on the disk of {tmp_path / 'kafka'}: free some, or set SHELFWISE_HOME to a folder on another"
    )
    assert (choice.fault(called) or "").startswith(named)
    if jars.java() is not None and not jars.missing(JARS):
        with pytest.raises(BusError, match="no space left"):
            local_kafka(tmp_path / "kafka").start()


def test_a_local_kafka_that_has_ended_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "kafka.pid").write_text("1")
    assert "the local Kafka has ended" in (choice.fault(load()) or "")
