"""The way of grades as a user goes it: pages out, grades in, and a page ranker that learns them."""

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from stream import db
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.replicas import catalogue
from stream.schemas import session, topics
from stream.schemas.session import Session
from tests.harness.kafka import PARTITIONS
from tests.trainer.harness import LINEAGE
from tests.trainer.session_log import LogRecord, make_items, make_log, make_progress
from trainer.configs.smar import PROFILES
from trainer.pauses import Pauses
from trainer.run import Dependencies, Folders, run
from trainer.settings import TrainerSettings
from trainer.versions import artifact
from trainer.versions.registry import Registry

pytestmark = pytest.mark.system

NUM_PAGES = 20
# Behind the clock of any broker; times in seconds have 32 bits.
LATER_TS = 2_100_000_000_000
PAGE = replace(LINEAGE, name="page", model="smar", config=PROFILES["tiny"])


def call(*arguments: object) -> Any:
    done = CliRunner().invoke(app, ["trainer", "annotate", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def with_scores(record: LogRecord) -> bytes:
    content = session.decode(record.value)
    if not isinstance(content, Session):
        return record.value
    return session.encode(msgspec.structs.replace(content, score=np.linspace(1, 0, content.n, dtype="<f4").tobytes()))


def fill_in(path: Path) -> int:
    """Grade every line of an exported file, and return their number."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"grade": number % 5, "seconds": 2} for number, row in enumerate(rows))
    return len(rows)


def test_exported_pages_come_back_as_grades_that_the_next_version_has_learned(
    fresh_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    monkeypatch.setenv("SHELFWISE_BROKER", fresh_kafka.bootstrap)
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    log = make_log(60, partitions=PARTITIONS)
    with Producer(fresh_kafka) as producer:
        catalogue.publish(producer, make_items())
        for record in log:
            producer.send(topics.SESSIONS, key=None, value=with_scores(record), partition=record.partition)
    path = tmp_path / "pages.csv"
    assert call("export", path, "--pages", NUM_PAGES)["pages"] == NUM_PAGES
    num_lines = fill_in(path)
    assert call("import", path, "--annotator", "ann")["sent"] == num_lines
    (cost,) = call("ledger")
    assert (cost["queries"], cost["judgements"], cost["seconds"]) == (NUM_PAGES, num_lines, 2 * num_lines)
    with Producer(fresh_kafka) as producer:
        for partition in range(PARTITIONS):
            value = session.encode(make_progress(partition, LATER_TS))
            producer.send(topics.SESSIONS, key=None, value=value, partition=partition)
    registry, folders = Registry(engine), Folders.under(tmp_path, PAGE.name)

    def is_done() -> bool:
        live = registry.live(PAGE.name)
        return (
            live is not None
            and artifact.read_manifest(folders.artifacts, live.artifact).boundary_ts > LATER_TS - 100_000
        )

    ticks = itertools.count()
    loop = run(
        PAGE,
        TrainerSettings(publish_s=40, metrics_port=0),
        fresh_kafka,
        engine,
        folders,
        Dependencies(
            now_ms=lambda: 0,
            pauses=Pauses(monotonic_s=lambda: next(ticks) / 1000, wait=lambda _: False, random=lambda: 0.0),
            is_stopping=is_done,
        ),
        device="cpu",
        holder="one",
    )
    assert loop.graded is not None
    assert loop.graded.outcomes == {"learned": NUM_PAGES, "lost": 0, "unplaced": 0, "refused": 0}
