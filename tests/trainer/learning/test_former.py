"""The former version's scores beside those as served: its own ids and weights, through restarts."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from stream import db
from stream.schemas.session import Session, decode, encode
from tests.trainer.harness import LINEAGE, Crash, feed, make_loop
from tests.trainer.lists import catalogue, labelled
from tests.trainer.session_log import LogRecord, make_log
from trainer.features import Examples, collate
from trainer.learning.former import FormerVersion
from trainer.models import MODELS, to_torch
from trainer.versions import artifact
from trainer.versions.artifact import LoadedVersion, Manifest
from trainer.versions.registry import Registry


def make_engine(folder: Path) -> Engine:
    folder.mkdir(exist_ok=True)
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return engine


def served(log: list[LogRecord]) -> list[LogRecord]:
    """Return the log as if the lineage had ranked two lists of three by its version 1."""
    rng = np.random.default_rng(3)
    found = []
    for number, record in enumerate(log):
        content = decode(record.value)
        if isinstance(content, Session) and number % 3:
            content.lineage, content.version = LINEAGE.name, "1"
            content.score = np.sort(rng.normal(size=content.n))[::-1].astype("<f4").tobytes()
        found.append(LogRecord(record.partition, record.offset, encode(content)))
    return found


LOG = served(make_log(150))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Engine]:
    folder = tmp_path_factory.mktemp("whole")
    engine = make_engine(folder)
    feed(make_loop(folder, engine), LOG)
    return folder, engine


def manifests(folder: Path, engine: Engine) -> list[Manifest]:
    return [artifact.read_manifest(folder / "artifacts", one.artifact) for one in Registry(engine).versions("test")]


def newest(folder: Path, engine: Engine) -> LoadedVersion:
    return artifact.load(folder / "artifacts", Registry(engine).versions("test")[-1].artifact)


def test_scores_are_those_of_the_version_by_its_own_ids(whole: tuple[Path, Engine]) -> None:
    version = newest(*whole)
    known = catalogue()
    examples = [labelled(seed, known) for seed in range(5)]
    rows = np.array([True, False, True, True, False])
    found = FormerVersion(version, version.params["rows.item"].device).scores(Examples.of(examples), rows, (5, 30))
    assert np.isnan(found[~rows]).all()
    for row in np.flatnonzero(rows):
        alone = collate(Examples.of([examples[row]]), version.id_maps, width=16, history=version.config.history)
        logit = MODELS["prm"].forward(version.config, version.params, to_torch(alone)).logit.detach().numpy()[0]
        np.testing.assert_allclose(found[row, : len(logit)], logit, rtol=1e-5, atol=1e-6)
        assert not found[row, len(logit) :].any()


def test_versions_with_a_predecessor_at_their_start_have_the_series(whole: tuple[Path, Engine]) -> None:
    found = manifests(*whole)
    assert len(found) > 3
    for number, manifest in enumerate(found, start=1):
        metrics = manifest.metrics
        assert metrics["prequential_served.click.lists"] > 5
        assert ("prequential_former.click.auc" in metrics) == (number > 2)
        if number > 2:
            assert metrics["prequential_former.click.lists"] == metrics["prequential_served.click.lists"]
            assert metrics["prequential_former.click.auc"] != metrics["prequential_served.click.auc"]


def test_a_restart_in_the_middle_changes_no_number(whole: tuple[Path, Engine], tmp_path: Path) -> None:
    visits = 0

    def crash(name: str) -> None:
        nonlocal visits
        visits += name == "checkpoint.after_rename"
        if visits == 6:
            raise Crash(name)

    engine = make_engine(tmp_path)
    with pytest.raises(Crash):
        feed(make_loop(tmp_path, engine, failpoint=crash), LOG)
    assert len(manifests(tmp_path, engine)) > 1
    feed(make_loop(tmp_path, engine), LOG)
    resumed = [(one.version, one.metrics, one.files) for one in manifests(tmp_path, engine)]
    assert resumed == [(one.version, one.metrics, one.files) for one in manifests(*whole)]


def test_without_the_former_version_learning_goes_on(whole: tuple[Path, Engine]) -> None:
    folder, engine = whole
    parent = newest(folder, engine).manifest.parent
    assert parent is not None
    (folder / "artifacts" / parent).rename(folder / "artifacts" / f"x{parent}")
    loop = make_loop(folder, engine)
    loop.start()
    assert loop.learner.former is None
    (folder / "artifacts" / f"x{parent}").rename(folder / "artifacts" / parent)
    again = make_loop(folder, engine)
    again.start()
    assert again.learner.former is not None
