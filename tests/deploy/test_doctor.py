"""`shelfwise doctor` on missing, wrong and sound servers and folders."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from prometheus_client import CollectorRegistry
from sqlalchemy import update
from sqlalchemy.sql import column, table
from typer.testing import CliRunner

from deploy import configuration, doctor
from deploy.cli import app
from deploy.configuration import Context
from deploy.doctor import Check, examine
from deploy.migrations.upgrade import upgrade
from stream import db, settings
from stream.broker import admin
from stream.broker.settings import Broker
from stream.probes import ProbeServer
from tests.harness.grafana.stub import TOKEN, StubState, grafana_stub
from tests.harness.kafka import PARTITIONS

PORTS = ("serving.port", "worker.metrics_port", "trainer.metrics_port", "abtest.metrics_port")


def context(home: Path, **flags: object) -> Context:
    """Return settings that reach for no port, broker or server unless a flag names it."""
    sound: dict[str, object] = {**dict.fromkeys(PORTS, 0), "kafka.broker": "memory"}
    given = {key.replace("__", "."): value for key, value in flags.items()}
    resolved = settings.load(configuration.sections(), flags=sound | given)
    return Context(home=home, settings=resolved, config_file=None)


def checked(home: Path, **flags: object) -> dict[str, Check]:
    return {check.name: check for check in examine(context(home, **flags))}


def wait_for_settings(broker: Broker, wrong: list[str]) -> None:
    """Wait until the broker shows the settings that it has accepted."""
    deadline = time.monotonic() + 30
    while (found := [correction.setting for correction in admin.wrong_settings(broker, retention_ms=0)]) != wrong:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


@pytest.mark.parametrize("broker", ["memory", "local", "auto"])
def test_nothing_is_changed(tmp_path: Path, broker: str) -> None:
    found = checked(tmp_path / "home", kafka__broker=broker)
    assert {found[name].status for name in ("python", "home folder", "artifact folder", "disk space")} == {"ok"}
    assert found["broker"].status == "warn"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_unreachable_broker_fails_with_every_address(tmp_path: Path, closed_port: int) -> None:
    address = f"127.0.0.1:{closed_port}"
    found = checked(tmp_path, kafka__broker=f"{address},{address}")
    for name in ("broker", "topics"):
        assert found[name].status == "fail"
        assert found[name].detail.count(address) == 2


@pytest.mark.slow
def test_a_server_that_is_no_broker_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = checked(tmp_path, kafka__broker=f"127.0.0.1:{server.getsockname()[1]}")
    assert (found["broker"].status, found["topics"].status) == ("fail", "fail")
    assert "timed out" in found["broker"].detail


def test_a_plain_text_broker_elsewhere_fails(tmp_path: Path) -> None:
    found = checked(tmp_path, kafka__broker="kafka.invalid:9092")
    assert (found["broker"].status, "PLAINTEXT" in found["broker"].detail) == ("fail", True)


def test_a_memory_broker_with_another_partition_count_fails(tmp_path: Path, memory_broker: Broker) -> None:
    broker = f"memory@{memory_broker.bootstrap}"
    found = checked(tmp_path, kafka__broker=broker, kafka__partitions=PARTITIONS)
    assert (found["broker"].status, found["topics"].status) == ("ok", "ok")
    found = checked(tmp_path, kafka__broker=broker, kafka__partitions=PARTITIONS + 1)
    assert found["topics"].status == "fail"
    assert f"clicks has {PARTITIONS} partitions instead of {PARTITIONS + 1}" in found["topics"].detail


@pytest.mark.kafka
def test_missing_topics_and_wrong_settings_fail(tmp_path: Path, kafka_broker: Broker) -> None:
    flags = {"kafka__broker": kafka_broker.bootstrap, "kafka__partitions": PARTITIONS}
    assert checked(tmp_path, **flags)["topics"].status == "ok"
    client = KafkaAdminClient(**kafka_broker.client_config())
    try:
        stamped = {"message.timestamp.type": "CreateTime", "compression.type": "uncompressed"}
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "clicks", stamped)])
    finally:
        client.close()
    wait_for_settings(kafka_broker, ["message.timestamp.type"])
    found = checked(tmp_path, **flags)["topics"]
    assert found.status == "fail"
    assert "clicks has message.timestamp.type = CreateTime instead of LogAppendTime" in found.detail
    admin.correct_settings(kafka_broker, retention_ms=0)
    wait_for_settings(kafka_broker, [])
    assert checked(tmp_path, **flags)["topics"].status == "ok"


@pytest.mark.kafka
def test_a_broker_without_topics_fails(tmp_path: Path, kafka_broker: Broker) -> None:
    admin.delete_topics(kafka_broker)
    try:
        found = checked(tmp_path, kafka__broker=kafka_broker.bootstrap, kafka__partitions=PARTITIONS)["topics"]
    finally:
        admin.create_topics(kafka_broker, PARTITIONS)
    assert found.status == "fail"
    assert "impressions is missing" in found.detail
    assert "shelfwise kafka topics" in found.detail


def test_a_database_without_the_schema_of_this_release_fails(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shelfwise.db'}"
    absent = checked(tmp_path)["database"]
    assert (absent.status, "shelfwise db upgrade" in absent.detail) == ("fail", True)
    upgrade(url)
    assert checked(tmp_path)["database"].status == "ok"
    engine = db.create(url)
    with db.transaction(engine) as connection:
        connection.execute(update(table("alembic_version", column("version_num"))).values(version_num="9999"))
    engine.dispose()
    newer = checked(tmp_path)["database"]
    assert (newer.status, "9999" in newer.detail) == ("fail", True)


def test_an_unreachable_database_fails_without_its_password(tmp_path: Path, closed_port: int) -> None:
    url = f"postgresql://me:canary@127.0.0.1:{closed_port}/shop"
    found = checked(tmp_path, database__url=url)["database"]
    assert found.status == "fail"
    assert str(closed_port) in found.detail
    assert "canary" not in found.detail


def test_folders_that_cannot_be_written_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    found = checked(tmp_path, serving__artifacts=str(file / "artifacts"))
    assert (found["artifact folder"].status, "not a folder" in found["artifact folder"].detail) == ("fail", True)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)
    found = checked(tmp_path)
    assert {found[name].status for name in ("home folder", "artifact folder")} == {"fail"}
    assert str(tmp_path) in found["home folder"].detail


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=(1 << 30) - 1))
    assert checked(tmp_path)["disk space"].status == "fail"


def test_a_service_for_other_machines_needs_tokens_and_signed_versions(tmp_path: Path) -> None:
    hosts = {"serving.host": "0.0.0.0"}
    tokens = {"serving.tokens": f"score:{'5' * 64}"}
    keys = {"signing.key": "6" * 64}
    found = {
        given: checked(tmp_path, **flags)["serving access"]
        for given, flags in {
            "loopback": {},
            "nothing": hosts,
            "tokens": hosts | tokens,
            "all": hosts | tokens | keys,
        }.items()
    }
    assert {given: check.status for given, check in found.items()} == {
        "loopback": "ok",
        "nothing": "fail",
        "tokens": "fail",
        "all": "ok",
    }
    assert "serving.tokens" in found["nothing"].detail
    assert "signing.key" in found["tokens"].detail


@pytest.mark.parametrize(
    ("key", "name"),
    list(zip(PORTS, ("serving port", "joiner port", "trainer port", "sink port"), strict=True)),
)
def test_a_taken_port_fails_unless_a_process_of_the_loop_holds_it(
    tmp_path: Path, taken_port: int, key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CONNECT_S", 0.1)
    flag = key.replace(".", "__")
    taken = checked(tmp_path, **{flag: taken_port})[name]
    assert (taken.status, str(taken_port) in taken.detail) == ("fail", True)
    monkeypatch.setattr(doctor, "CONNECT_S", 10.0)
    with ProbeServer("127.0.0.1", 0, CollectorRegistry(), lambda: "starting") as probes:
        assert checked(tmp_path, **{flag: probes.port})[name].status == "ok"


def test_grafana_and_prometheus_are_checked_where_they_are_configured(tmp_path: Path, closed_port: int) -> None:
    found = checked(tmp_path)
    assert {found[name].detail.partition(":")[0] for name in ("grafana", "prometheus")} == {"not configured"}
    nowhere = f"http://127.0.0.1:{closed_port}"
    found = checked(tmp_path, grafana__url=nowhere, grafana__token="x", grafana__prometheus_url=nowhere)
    assert {found[name].status for name in ("grafana", "prometheus")} == {"fail"}
    with grafana_stub(StubState()) as url:
        assert checked(tmp_path, grafana__url=url, grafana__token=TOKEN)["grafana"].status == "ok"


def test_a_failed_check_is_exit_code_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.configuration.environment", lambda: {"SHELFWISE_HOME": str(tmp_path / "home")})
    result = CliRunner().invoke(app, ["--set", "kafka.broker=memory", "doctor", "--json"])
    assert result.exit_code == 3
    results = {check["name"]: check["status"] for check in json.loads(result.stdout)}
    assert (results["database"], results["python"]) == ("fail", "ok")
    assert list(tmp_path.iterdir()) == []
