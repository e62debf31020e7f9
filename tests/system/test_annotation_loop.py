"""The way of grades as a user goes it: pages out, labelled in Chromium and in a file, and learned by a page ranker."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from serving import run as serving
from serving.settings import ServingSettings
from stream import db
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.replicas import catalogue
from stream.schemas import session, topics
from stream.schemas.session import Session
from tests.harness.chromium import browser
from tests.harness.kafka import PARTITIONS
from tests.serving.live import live
from tests.trainer.harness import LINEAGE
from tests.trainer.session_log import LogRecord, make_items, make_log, make_progress
from trainer.annotation.files import read_pages
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


def label(folder: Path, address: str, items_by_page: Sequence[int]) -> None:
    """Label all pages of a service in a browser, by keys."""
    with browser(folder) as tab:
        tab.open(f"{address}/annotate")
        tab.value("document.getElementById('annotator').focus()")
        tab.press(*"ann", "Enter")
        tab.wait_for("!document.getElementById('work').hidden")
        for number, num_items in enumerate(items_by_page, start=1):
            tab.press(*(str(place % 5) for place in range(num_items)), "Enter")
            tab.wait_for(f"document.getElementById('done').textContent.endsWith(', {number} saved')")


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


def test_exported_pages_are_labelled_in_a_browser_and_a_file_and_the_next_version_has_learned_the_grades(
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
    offered, table = tmp_path / "pages.jsonl", tmp_path / "pages.csv"
    for path in (offered, table):
        assert call("export", path, "--pages", NUM_PAGES)["pages"] == NUM_PAGES
    num_lines = fill_in(table)
    service = serving.build(
        ServingSettings(annotation_pages=str(offered)),
        home=tmp_path,
        broker=fresh_kafka,
        engine=engine,
        query_hash_key=b"key",
    )
    with live(service) as address:
        label(tmp_path, address, list(Counter(row.page for row in read_pages(offered)).values()))
    # What the page has sent needs no import; another annotator judges the same pages in a file.
    copy = tmp_path / "copy.jsonl"
    assert CliRunner().invoke(app, ["stream", "export", "annotations", "--out", str(copy)]).exit_code == 0
    assert (call("import", copy)["sent"], call("import", copy)["known"]) == (0, num_lines)
    assert call("import", table, "--annotator", "ben")["sent"] == num_lines
    (cost,) = call("ledger")
    assert (cost["queries"], cost["annotators"], cost["judgements"]) == (NUM_PAGES, 2, 2 * num_lines)
    assert (cost["corrections"], cost["untimed"]) == (0, 0)
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
        folders=folders,
        dependencies=Dependencies(
            now_ms=lambda: 0,
            pauses=Pauses(monotonic_s=lambda: next(ticks) / 1000, wait=lambda _: False, random=lambda: 0.0),
            is_stopping=is_done,
        ),
        device="cpu",
        holder="one",
    )
    assert loop.graded is not None
    assert loop.graded.outcomes == {"learned": NUM_PAGES, "lost": 0, "unplaced": 0, "refused": 0}
