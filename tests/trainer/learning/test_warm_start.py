"""A lineage that starts from a version of another one: equal scores, ids that fit, and exact resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from stream import db
from stream.errors import ConfigError
from stream.schemas.session import Session, decode
from tests.trainer.harness import LINEAGE, Crash, feed, make_loop, weights
from tests.trainer.lists import hashes
from tests.trainer.session_log import LogRecord, make_log
from trainer.configs import LearningSettings, Vocabulary
from trainer.features.id_maps import COLD_SLOT, FIRST_SLOT
from trainer.learning.learner import Learner
from trainer.lineage import Lineage
from trainer.loop import Loop
from trainer.models import MODELS, to_torch
from trainer.versions import artifact, checkpoint
from trainer.versions.artifact import LoadedVersion
from trainer.versions.checkpoint import Origin
from trainer.versions.origin import find
from trainer.versions.registry import Registry
from trainer.versions.wanted import Wanted

IDS = [f"i{number}" for number in range(40)]


@pytest.fixture(scope="module")
def log() -> list[LogRecord]:
    return make_log(160)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, log: list[LogRecord]) -> tuple[Path, Engine, LoadedVersion]:
    """The home of a lineage that has read half of the log, its database, and its newest version."""
    folder = tmp_path_factory.mktemp("base")
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    feed(make_loop(folder, engine), log[:150])
    newest = Registry(engine).live("test")
    assert newest is not None
    return folder, engine, artifact.load(folder / "artifacts", newest.artifact)


def learner(vocabulary: Vocabulary) -> Learner:
    config = replace(LINEAGE.config, vocabulary=vocabulary)
    return Learner(LINEAGE.model, config, LearningSettings(seed=99, batch=16), device=torch.device("cpu"))


def origin_of(version: LoadedVersion) -> Origin:
    own = version.manifest
    return Origin(lineage=own.lineage, version=own.version, artifact=version.sha256, boundary_ts=own.boundary_ts)


@pytest.mark.parametrize("rows", [10_000, 50, None])
def test_scores_are_those_of_the_version_in_a_table_of_any_size_that_holds_its_ids(
    base: tuple[Path, Engine, LoadedVersion], rows: int | None
) -> None:
    version = base[2]
    rows = rows or FIRST_SLOT + len(version.id_maps.item)
    new = learner(Vocabulary(item=rows, shop=rows, brand=rows, category=rows))
    new.warm_start(version)
    before, after = version.id_maps.item.lookup(hashes(IDS)), new.id_maps.item.lookup(hashes(IDS))
    assert after.tolist() == before.tolist()
    assert (after >= FIRST_SLOT).sum() == len(version.id_maps.item) > 30
    assert new.id_maps.item.capacity == rows
    with torch.no_grad():
        scores = MODELS[new.model].forward(new.config, new.params, to_torch(version.golden)).logit.numpy()
    mask = version.golden.cand_mask
    np.testing.assert_array_equal(scores[mask], version.golden_scores[mask])


def test_a_smaller_table_keeps_the_ids_that_the_cold_row_stands_in_for_worst(
    base: tuple[Path, Engine, LoadedVersion],
) -> None:
    version = base[2]
    new = learner(Vocabulary(item=12))
    new.warm_start(version)
    rows = version.params["rows.item"].numpy()
    before = dict(zip(IDS, version.id_maps.item.lookup(hashes(IDS)).tolist(), strict=True))
    after = dict(zip(IDS, new.id_maps.item.lookup(hashes(IDS)).tolist(), strict=True))
    kept = {name for name, slot in after.items() if slot >= FIRST_SLOT}
    assert len(kept) == 10

    def distance(name: str) -> float:
        return float(np.square(rows[before[name]].astype(np.float64) - rows[COLD_SLOT]).sum())

    left = {name for name, slot in before.items() if slot >= FIRST_SLOT} - kept
    assert min(map(distance, kept)) >= max(map(distance, left))
    for name in kept:
        np.testing.assert_array_equal(new.params["rows.item"][after[name]].numpy(), rows[before[name]])


def test_ids_that_came_along_are_seen_no_more_and_leave_for_newcomers(
    base: tuple[Path, Engine, LoadedVersion],
) -> None:
    version = base[2]
    new = learner(Vocabulary(item=FIRST_SLOT + len(version.id_maps.item)))
    new.warm_start(version)
    start_s = version.manifest.boundary_ts // 1000
    newcomers = [f"new{number}" for number in range(10)]
    new.id_maps.item.at_boundary((start_s + 60) * 1000)
    new.id_maps.item.observe(hashes(newcomers * 4))
    changes = new.id_maps.item.at_boundary((start_s + 120) * 1000)
    assert len(changes.evicted) == len(changes.admitted) == 10


def started(folder: Path, engine: Engine, version: LoadedVersion, failpoint: str | None = None) -> Loop:
    """Return the loop of another lineage in the same home, with larger tables, that starts from the version."""
    lineage: Lineage = replace(
        LINEAGE,
        name="second",
        config=replace(LINEAGE.config, vocabulary=Vocabulary(item=20_000)),
        learning=replace(LINEAGE.learning, seed=99),
    )

    def crash(name: str) -> None:
        if name == failpoint:
            raise Crash(name)

    home = folder / "second"
    home.mkdir(exist_ok=True)
    if not (home / "artifacts").exists():
        (home / "artifacts").symlink_to(folder / "artifacts")
    return make_loop(home, engine, lineage=lineage, origin=origin_of(version), failpoint=crash)


def search(folder: Path, engine: Engine, text: str) -> Origin | None:
    return find(
        Wanted.parse(text, "--warm-start"),
        LINEAGE.model,
        LINEAGE.config,
        registry=Registry(engine),
        versions=folder / "artifacts",
        checkpoints=folder / "second" / "checkpoints",
    )


@pytest.mark.no_cover
def test_a_run_passes_over_what_the_version_has_learned_records_it_and_resumes_exactly(
    base: tuple[Path, Engine, LoadedVersion], log: list[LogRecord]
) -> None:
    folder, engine, version = base
    whole = started(folder, engine, version)
    feed(whole, log)
    counters = whole.learner.counters
    sessions = [one for one in (decode(record.value) for record in log) if isinstance(one, Session)]
    # The version was written before the session that lies on its boundary.
    assert version.manifest.boundary_ts in {one.watermark_ts for one in sessions}
    assert counters["known"] == sum(one.watermark_ts < version.manifest.boundary_ts for one in sessions) > 40
    assert counters["trained"] + len(whole.learner.pending) == len(sessions) - counters["known"] > 100
    newest = Registry(engine).live("second")
    assert newest is not None
    manifest = artifact.read_manifest(folder / "artifacts", newest.artifact)
    assert manifest.origin == origin_of(version)
    assert manifest.parent != version.sha256
    state = checkpoint.newest_state(folder / "second" / "checkpoints")
    assert state is not None
    assert state.origin == origin_of(version)
    # A restart with the same options goes on; another version would have no effect, and is refused.
    assert search(folder, engine, "test") is None
    assert search(folder, engine, f"test:{version.manifest.version}") is None
    with pytest.raises(ConfigError, match=r"--warm-start test:99: .* started from version test:"):
        search(folder, engine, "test:99")

    with db.transaction(engine) as connection:
        connection.exec_driver_sql("DELETE FROM rollout_events WHERE lineage = 'second'")
        connection.exec_driver_sql("DELETE FROM versions WHERE lineage = 'second'")
    (folder / "second").rename(folder / "first_run")
    with pytest.raises(Crash):
        feed(started(folder, engine, version, failpoint="after_row"), log)
    resumed = started(folder, engine, version)
    feed(resumed, log)
    assert resumed.learner.counters == counters
    assert weights(resumed) == weights(whole)
