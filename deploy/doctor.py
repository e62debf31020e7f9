"""What this machine and these settings allow, checked without changing anything."""

import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from deploy.configuration import Context
from deploy.kafka import choice, jars
from deploy.kafka.settings import LocalKafkaSettings
from deploy.migrations.revision import revision
from serving.settings import ServingSettings
from stream import db
from stream.broker.offsets import beginning_offsets
from stream.broker.settings import Broker, KafkaSettings
from stream.errors import BusError, ConfigError, ShelfwiseError
from stream.schemas import topics

CONNECT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding; `fail` means that something Shelfwise needs is missing, `warn` that something optional is."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str


def examine(context: Context) -> list[Check]:
    """Return all findings; a check that breaks becomes a failed check with the reason."""
    checks: tuple[tuple[str, Callable[[Context], Check]], ...] = (
        ("python", _python),
        ("java", _java),
        ("kafka jars", _jars),
        ("broker", _broker),
        ("topics", _topics),
        ("database", _database),
        ("gpu", _gpu),
        ("serving port", _serving_port),
    )
    findings = []
    for name, check in checks:
        try:
            findings.append(check(context))
        except ShelfwiseError as error:
            findings.append(Check(name=name, status="fail", detail=str(error)))
    return findings


def _python(_context: Context) -> Check:
    status: Literal["ok", "fail"] = "ok" if sys.version_info >= (3, 11) else "fail"
    return Check(name="python", status=status, detail=f"{platform.python_version()}, 3.11 or newer is needed")


def _java(_context: Context) -> Check:
    found = jars.java()
    if found is None:
        return Check(name="java", status="warn", detail=f"no Java {jars.MIN_JAVA}+: only the memory broker runs here")
    return Check(name="java", status="ok", detail=found)


def _jars(context: Context) -> Check:
    folder = choice.jar_folder(context.settings.get("local_kafka", LocalKafkaSettings), context.home)
    absent = jars.missing(folder)
    if not absent:
        return Check(name="kafka jars", status="ok", detail=str(folder))
    maven = shutil.which("mvn")
    wanted = f"{len(absent)} jars are not in {folder}"
    if maven:
        return Check(name="kafka jars", status="ok", detail=f"{wanted}; `shelfwise kafka up` fetches them with {maven}")
    return Check(name="kafka jars", status="warn", detail=f"{wanted} and Maven (mvn) was not found")


def _broker(context: Context) -> Check:
    settings = context.settings.get("kafka", KafkaSettings)
    found = _running_broker(context)
    if found is None:
        detail = f"kafka.broker = {settings.broker}: none runs yet; `shelfwise kafka up` starts the local one"
        return Check(name="broker", status="warn", detail=detail)
    host, _, port = found.bootstrap.split(",")[0].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise BusError(f"{found.bootstrap} (kafka.broker = {settings.broker}): {error}") from error
    return Check(name="broker", status="ok", detail=f"{found.bootstrap} answers")


def _topics(context: Context) -> Check:
    settings = context.settings.get("kafka", KafkaSettings)
    found = _running_broker(context)
    if found is None:
        return Check(name="topics", status="warn", detail="no broker to ask")
    wrong = []
    for topic in topics.ALL:
        expected = topics.partitions_of(topic, settings.partitions)
        try:
            count = len(beginning_offsets(found, [topic.name]))
        except BusError as error:
            return Check(name="topics", status="warn", detail=str(error))
        if count != expected:
            wrong.append(f"{topic.name} has {count} partitions instead of {expected}")
    if wrong:
        raise ConfigError("; ".join(wrong) + ": joins would find nothing; partition counts are never changed in place")
    return Check(name="topics", status="ok", detail=f"{len(topics.ALL)} topics, {settings.partitions} partitions")


def _running_broker(context: Context) -> Broker | None:
    settings = context.settings.get("kafka", KafkaSettings)
    if settings.broker == "memory":
        return None
    if settings.broker in {"auto", "local"}:
        status = choice.local(context.settings.get("local_kafka", LocalKafkaSettings), context.home).status()
        return Broker(bootstrap=status.address) if status.pid is not None else None
    return choice.configured(context)


def _database(context: Context) -> Check:
    engine = db.create(context.database_url(), context.settings.get("database", db.DatabaseSettings))
    try:
        found = revision(engine)
    finally:
        engine.dispose()
    return Check(name="database", status="ok" if found.state == "head" else "fail", detail=str(found))


def _gpu(_context: Context) -> Check:
    found = shutil.which("nvidia-smi")
    if found is None:
        return Check(name="gpu", status="warn", detail="no NVIDIA driver: trainers use the CPU")
    return Check(name="gpu", status="ok", detail=f"{found} is there; `--device auto` uses it")


def _serving_port(context: Context) -> Check:
    settings = context.settings.get("serving", ServingSettings)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            return Check(name="serving port", status="warn", detail=f"{settings.host}:{settings.port}: {error}")
    return Check(name="serving port", status="ok", detail=f"{settings.host}:{settings.port} is free")
