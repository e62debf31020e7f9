"""kill -9 of every part of the demo while shoppers shop: the books close, and what was learned is the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, select

from abtest.tables import session_facts
from deploy.demo import arms
from deploy.demo.arms import LearnedArm
from deploy.demo.environment import SHOP, variable
from deploy.demo.processes import SHOPPERS, trainer_name
from deploy.demo.summary import DemoSummary
from deploy.migrations import upgrade
from deploy.supervisor import tail
from stream import db
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas import events, session, topics
from stream.schemas.session import Session
from tests.harness.demo import ROOT, DemoProcess, demo, wait_until_none
from tests.harness.kafka import local_kafka
from trainer.versions.artifact import read_manifest
from trainer.versions.registry import Registry

pytestmark = [pytest.mark.kafka, pytest.mark.system]
SEED = 11
PUBLISH_S = 900
TRAINING = {"trainer.publish_s": PUBLISH_S, "trainer.hold_lists": 0, "learning.checkpoint_s": PUBLISH_S // 2}
ARMS = arms.learned(("prm", "armmt"))
OPTIONS = (
    "--hours",
    "2",
    "--rate",
    "900",
    "--seed",
    str(SEED),
    "--publish-s",
    str(PUBLISH_S),
    "--lineages",
    "prm,armmt",
)
# Two simulated hours take four minutes at least, so every kill falls into the shoppers' time, on a slow machine too.
SETTINGS = {"SHELFWISE_MARKETPLACE__PACE": "30", variable("trainer.hold_lists"): "0"}
VICTIMS: Mapping[str, tuple[str, ...]] = {
    "joiner": ("stream", "worker"),
    **{trainer_name(arm): ("trainer", "run", arm.lineage) for arm in ARMS},
    "serving": ("serving", "run"),
    "sink": ("abtest", "sink"),
    "watcher": ("abtest", "watch"),
}
SESSIONS_BETWEEN_KILLS = 80
# Its last versions: address of each file, and how many sessions they have learned.
Weights = list[tuple[int, dict[str, str], int]]


def test_after_kills_of_every_part_nothing_is_lost_doubled_or_learned_otherwise(tmp_path: Path) -> None:
    with demo(tmp_path / "home", *OPTIONS, settings=SETTINGS) as running:
        running.wait_for("the shoppers", lambda: running.pid("marketplace", "run") is not None)
        for name, argv in VICTIMS.items():
            _kill_child(running, name, argv)
        _kill_broker(running)
        summary = running.finish()
        said = running.said
        wait_until_none(running.home)
    for name in VICTIMS:
        assert f"{name} ended with code -9" in said
    assert "the broker is gone: starting it again" in said
    _check_books(summary)
    home = tmp_path / "home" / "demo"
    kafka = local_kafka(home / "kafka")
    broker = kafka.start()
    try:
        _check_shown(broker, summary, home)
        _check_sql(broker, home)
        for arm in ARMS:
            learned = _weights(home, arm)
            assert len(learned) >= 2 * 3_600 // PUBLISH_S - 2, learned
            with _undisturbed(broker, tmp_path / "reference", arm) as reference:
                _wait_until_published(reference, tmp_path / "reference", arm, learned[-1][0])
            assert _weights(tmp_path / "reference", arm) == learned
    finally:
        kafka.stop()


def _kill_child(running: DemoProcess, name: str, argv: tuple[str, ...]) -> None:
    before = _victim(running, argv)
    os.kill(before, signal.SIGKILL)
    running.wait_for(f"a new {name}", lambda: running.pid(*argv) not in {None, before})
    running.wait_for(f"{name} to answer again", lambda: bool(running.samples(name).values))


def _kill_broker(running: DemoProcess) -> None:
    before = _victim(running, ("kafka.Kafka",))
    os.kill(before, signal.SIGKILL)
    running.wait_for("a new broker", lambda: running.pid("kafka.Kafka") not in {None, before})


def _victim(running: DemoProcess, argv: tuple[str, ...]) -> int:
    """Return a process to kill, once sessions have come through the whole loop since the kill before."""
    wanted = _sessions_in_sql(running.folder) + SESSIONS_BETWEEN_KILLS
    running.wait_for("sessions in SQL", lambda: _sessions_in_sql(running.folder) >= wanted)
    assert running.pid("marketplace", "run") is not None, f"the {SHOPPERS} are gone already:\n{running.words()}"
    found = running.pid(*argv)
    assert found is not None, f"{argv} does not run:\n{running.words()}"
    return found


def _sessions_in_sql(home: Path) -> int:
    engine = db.create(f"sqlite:///{home / 'shelfwise.db'}")
    try:
        with engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(session_facts)).scalar_one()
    finally:
        engine.dispose()


def _check_books(summary: DemoSummary) -> None:
    kept = summary.conservation
    assert kept.closed, kept
    assert kept.produced == sum(kept.by_counters.values()) == sum(kept.by_recount.values())
    assert kept.by_counters["joined"] == kept.by_recount["joined"] > 1_000
    assert summary.sessions_in_topic == summary.sessions_in_sql > 1_000


def _check_shown(broker: Broker, summary: DemoSummary, home: Path) -> None:
    """Every list on the log has its session; those that serving took with it into death are counted."""
    impressions = msgspec.json.Decoder(events.Impression)
    shown = {impressions.decode(record.value or b"").query_id for record in read_to_end(broker, topics.IMPRESSIONS)}
    assert len(shown) == summary.sessions_in_topic
    shoppers = json.loads((home / "logs" / f"{SHOPPERS}.json").read_text())
    assert shoppers["queries"] == summary.searches
    assert len(shown) >= summary.searches - shoppers["serving_errors"] - shoppers["impressions_missing"]


def _check_sql(broker: Broker, home: Path) -> None:
    """Every session of the log is in SQL once, under its newest revision, and nothing else is."""
    newest: dict[str, int] = {}
    for record in read_to_end(broker, topics.SESSIONS):
        content = session.decode(record.value or b"")
        if isinstance(content, Session):
            newest[content.query_id] = max(content.revision, newest.get(content.query_id, 0))
    engine = db.create(f"sqlite:///{home / 'shelfwise.db'}")
    columns = (session_facts.c.query_id, func.count(), func.max(session_facts.c.revision))
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).group_by(session_facts.c.query_id)).all()
    engine.dispose()
    assert {row[0]: (row[1], row[2]) for row in rows} == {query: (1, revision) for query, revision in newest.items()}


def _weights(home: Path, arm: LearnedArm) -> Weights:
    engine = db.create(f"sqlite:///{home / 'shelfwise.db'}")
    found = Registry(engine).versions(arm.lineage)
    engine.dispose()
    manifests = [read_manifest(home / "artifacts", version.artifact) for version in found]
    return [
        (manifest.version, {name: entry.sha256 for name, entry in manifest.files.items()}, manifest.num_sessions)
        for manifest in manifests
    ]


@contextmanager
def _undisturbed(broker: Broker, home: Path, arm: LearnedArm) -> Iterator["subprocess.Popen[bytes]"]:
    home.mkdir(exist_ok=True)
    upgrade.upgrade(f"sqlite:///{home / 'shelfwise.db'}")
    inherited = dict(os.environ)  # noqa: TID251 - a child inherits all but our own settings
    environment = {name: value for name, value in inherited.items() if not name.startswith("SHELFWISE_")}
    environment |= {
        "SHELFWISE_HOME": str(home),
        "SHELFWISE_BROKER": broker.bootstrap,
        **{variable(key): str(value) for key, value in {**SHOP, **TRAINING}.items()},
        "OMP_NUM_THREADS": "1",
    }
    argv = ("trainer", "run", arm.lineage, "--model", arm.model, "--profile", "tiny", "--seed", str(SEED))
    with (home / f"{arm.lineage}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy", *argv, "--metrics-port", "0"],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    try:
        yield process
        process.terminate()
        assert process.wait(timeout=60) == 0, tail(home / f"{arm.lineage}.log")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_published(process: "subprocess.Popen[bytes]", home: Path, arm: LearnedArm, version: int) -> None:
    registry = Registry(db.create(f"sqlite:///{home / 'shelfwise.db'}"))
    deadline = time.monotonic() + 300
    while not any(found.version >= version for found in registry.versions(arm.lineage)):
        log = tail(home / f"{arm.lineage}.log")
        assert process.poll() is None, f"the reference trainer ended:\n{log}"
        assert time.monotonic() < deadline, f"version {version} never came:\n{log}"
        time.sleep(0.1)
