"""Checks of this machine and the settings, made without changing anything.

A check fails where a process of Shelfwise would fail with the same settings.
"""

import os
import platform
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import make_url

from abtest.settings import AbtestSettings
from deploy.configuration import Context
from deploy.free_ports import refusal
from deploy.grafana.settings import GrafanaSettings
from deploy.kafka import choice, jars
from deploy.kafka.settings import LocalKafkaSettings
from deploy.migrations.revision import revision
from serving import exposure
from serving.settings import ServingSettings
from stream import db
from stream.agents.settings import WorkerSettings
from stream.broker import admin, connection
from stream.broker.settings import Broker, KafkaSettings
from stream.db_settings import DatabaseSettings
from stream.errors import ConfigError, ShelfwiseError
from stream.join.settings import JoinSettings
from stream.schemas import topics
from trainer.settings import TrainerSettings
from trainer.versions.signature import SigningSettings, VersionKeys

CONNECT_S = 2.0
MIN_FREE_BYTES = 1 << 30

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Result of one check.

    Attributes:
        name: Name of the check.
        status: `fail` if a process would not work, `warn` if something optional is missing.
        detail: Finding, and what to do about it.
    """

    name: str
    status: Status
    detail: str


def examine(context: Context) -> list[Check]:
    """Return the results of all checks; a check that raises an error becomes a failed check with its message."""
    checks: tuple[tuple[str, Callable[[Context], tuple[Status, str]]], ...] = (
        ("python", _python),
        ("java", _java),
        ("kafka jars", _jars),
        ("broker", _broker),
        ("topics", _topics),
        ("database", _database),
        ("home folder", lambda called: _writable(called.home)),
        ("artifact folder", lambda called: _writable(_artifacts(called))),
        ("disk space", _disk),
        ("gpu", _gpu),
        ("serving port", _serving_port),
        ("serving access", _serving_access),
        ("joiner port", _joiner_port),
        ("trainer port", _trainer_port),
        ("sink port", _sink_port),
        ("grafana", _grafana),
        ("prometheus", _prometheus),
    )
    results = []
    for name, check in checks:
        try:
            status, detail = check(context)
        except ShelfwiseError as error:
            status, detail = "fail", str(error)
        results.append(Check(name=name, status=status, detail=detail))
    return results


def _python(_context: Context) -> tuple[Status, str]:
    return "ok" if sys.version_info >= (3, 11) else "fail", f"{platform.python_version()}, 3.11 or newer is needed"


def _java(context: Context) -> tuple[Status, str]:
    needed = _kafka(context).broker
    if needed not in {"auto", "local"}:
        return "ok", f"not needed: kafka.broker = {needed}"
    found = jars.java()
    if found is not None:
        return "ok", found
    if needed == "local":
        return "fail", f"no Java {jars.MIN_JAVA} or newer, which kafka.broker = local needs"
    return "warn", f"no Java {jars.MIN_JAVA} or newer: only `shelfwise demo run` works, on a memory broker"


def _jars(context: Context) -> tuple[Status, str]:
    needed = _kafka(context).broker
    if needed not in {"auto", "local"}:
        return "ok", f"not needed: kafka.broker = {needed}"
    folder = choice.jar_folder(context.settings.get("local_kafka", LocalKafkaSettings), context.home)
    absent = jars.missing(folder)
    if not absent:
        return "ok", str(folder)
    found = f"{len(absent)} jars are not in {folder}"
    if maven := shutil.which("mvn"):
        return "ok", f"{found}; `shelfwise kafka up` downloads them with {maven}"
    return "fail" if needed == "local" else "warn", f"{found} and Maven (mvn) was not found"


def _broker(context: Context) -> tuple[Status, str]:
    broker = _running_broker(context)
    if broker is None:
        configured = _kafka(context).broker
        if configured == "memory":
            return "warn", "kafka.broker = memory: only `shelfwise demo run` hosts one; see `shelfwise kafka memory`"
        home = context.home.absolute()
        return "warn", f"kafka.broker = {configured}: not running in {home}; `shelfwise kafka up` starts it"
    connection.check(broker, CONNECT_S)
    return "ok", f"{broker.bootstrap} answers"


def _topics(context: Context) -> tuple[Status, str]:
    settings = _kafka(context)
    broker = _running_broker(context)
    if broker is None:
        return "warn", "no broker runs"
    connection.check(broker, CONNECT_S)
    counts = admin.partition_counts(broker)
    wrong = [f"{topic.name} is missing" for topic in topics.ALL if topic.name not in counts]
    for topic in topics.ALL:
        expected = topics.partitions_of(topic, settings.partitions)
        if topic.name in counts and counts[topic.name] != expected:
            wrong.append(f"{topic.name} has {counts[topic.name]} partitions instead of {expected}")
    wrong += [
        str(found)
        for found in admin.wrong_settings(broker, retention_ms=context.settings.get("join", JoinSettings).retention_ms)
    ]
    if wrong:
        raise ConfigError("; ".join(wrong) + "; `shelfwise kafka topics` creates topics and corrects their settings")
    return "ok", f"{len(topics.ALL)} topics, {settings.partitions} partitions"


def _database(context: Context) -> tuple[Status, str]:
    settings = context.settings.get("database", DatabaseSettings)
    url = context.database_url()
    file = make_url(url).database if url.startswith("sqlite") else None
    if file and not Path(file).exists():
        return "fail", f"database {url}: the file does not exist; run: shelfwise db upgrade"
    engine = db.create(url, settings)
    try:
        found = revision(engine)
    finally:
        engine.dispose()
    return "ok" if found.state == "head" else "fail", str(found)


def _artifacts(context: Context) -> Path:
    configured = context.settings.get("serving", ServingSettings).artifacts
    return Path(configured) if configured else context.home / "artifacts"


def _writable(folder: Path) -> tuple[Status, str]:
    existing = _existing(folder)
    if not existing.is_dir():
        return "fail", f"{folder}: {existing} is not a folder"
    if not os.access(existing, os.W_OK | os.X_OK):
        return "fail", f"{folder}: no permission to write to {existing}"
    return "ok", str(folder)


def _disk(context: Context) -> tuple[Status, str]:
    free = shutil.disk_usage(_existing(context.home)).free
    detail = f"{free / (1 << 30):.1f} GiB free for {context.home}"
    if free < MIN_FREE_BYTES:
        return "fail", f"{detail}, {MIN_FREE_BYTES / (1 << 30):.0f} GiB is the least"
    return "ok", detail


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _gpu(_context: Context) -> tuple[Status, str]:
    found = shutil.which("nvidia-smi")
    if found is None:
        return "warn", "no NVIDIA driver: trainers use the CPU"
    return "ok", f"{found} exists; `--device auto` uses the GPU"


def _serving_port(context: Context) -> tuple[Status, str]:
    settings = context.settings.get("serving", ServingSettings)
    return _port(settings.host, settings.port)


def _serving_access(context: Context) -> tuple[Status, str]:
    settings = context.settings.get("serving", ServingSettings)
    keys = VersionKeys.of(context.settings.get("signing", SigningSettings))
    exposure.check(settings, keys)
    callers = "callers need a token" if settings.tokens else "everybody on this machine may call"
    versions = "signed versions only" if keys else "versions are not signed"
    return "ok", f"{settings.host}: {callers}; {versions}"


def _joiner_port(context: Context) -> tuple[Status, str]:
    settings = context.settings.get("worker", WorkerSettings)
    return _port(settings.metrics_host, settings.metrics_port)


def _trainer_port(context: Context) -> tuple[Status, str]:
    settings = context.settings.get("trainer", TrainerSettings)
    return _port(settings.metrics_host, settings.metrics_port)


def _sink_port(context: Context) -> tuple[Status, str]:
    settings = context.settings.get("abtest", AbtestSettings)
    return _port(settings.metrics_host, settings.metrics_port)


def _port(host: str, port: int) -> tuple[Status, str]:
    address = f"{host}:{port}"
    if port == 0:
        return "ok", "port 0: none is fixed"
    refused = refusal(host, port)
    if refused is None:
        return "ok", f"{address} is free"
    if _answers(f"http://{_reachable(host)}:{port}/livez"):
        return "ok", f"{address} is used by a process that answers /livez"
    return "fail", f"{address}: {refused}"


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104


def _grafana(context: Context) -> tuple[Status, str]:
    settings = context.settings.get("grafana", GrafanaSettings)
    if not settings.token:
        return "ok", "not configured: grafana.token is empty"
    from deploy.grafana.gateway import connect

    found = connect(replace(settings, attempts=1), sleep=time.sleep).health()
    return "ok", f"{settings.url}: Grafana {found.version}"


def _prometheus(context: Context) -> tuple[Status, str]:
    url = context.settings.get("grafana", GrafanaSettings).prometheus_url
    if not url:
        return "ok", "not configured: grafana.prometheus_url is empty"
    if not _answers(f"{url.rstrip('/')}/-/ready"):
        return "fail", f"{url} does not answer /-/ready"
    return "ok", f"{url} is ready"


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=CONNECT_S).close()  # noqa: S310  # the scheme comes from the settings
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return True


def _kafka(context: Context) -> KafkaSettings:
    return context.settings.get("kafka", KafkaSettings)


def _running_broker(context: Context) -> Broker | None:
    settings = _kafka(context)
    if settings.broker == "memory":
        return None
    if settings.broker in {"auto", "local"}:
        status = choice.local(context.settings.get("local_kafka", LocalKafkaSettings), context.home).status()
        return Broker(bootstrap=status.address) if status.pid is not None else None
    return choice.configured(context)
