"""Versions with a graph for ONNX Runtime."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from stream import db
from stream.errors import ArtifactError
from tests.serving.world import publish, publish_delta
from tests.trainer.harness import SETTINGS, feed, make_loop
from tests.trainer.session_log import make_log
from trainer.features import batch_from_columns
from trainer.versions import artifact, onnx_export, writing
from trainer.versions.graph import Graph, check
from trainer.versions.registry import Registry


def test_a_version_has_a_graph_if_it_is_asked_for(tmp_path: Path) -> None:
    plain = artifact.load(tmp_path, publish(tmp_path, "base", 1))
    version = artifact.load(tmp_path, publish(tmp_path, "base", 1, with_graph=True))
    assert plain.graph is None
    assert version.graph is not None
    assert writing.verify_golden(version) == writing.verify_golden(plain) <= 1e-6
    found = Graph(version.graph, version.weights).scores(version.golden)
    check(found, version.golden_scores, version.golden.cand_mask)


def test_releases_without_graphs_read_the_version(tmp_path: Path) -> None:
    plain, address = publish(tmp_path, "base", 1), publish(tmp_path, "base", 1, with_graph=True)
    before, after = artifact.read_manifest(tmp_path, plain), artifact.read_manifest(tmp_path, address)
    assert (after.format, after.files.keys()) == (before.format, before.files.keys())
    stored = load_file(tmp_path / address / "golden.safetensors")
    expected = load_file(tmp_path / plain / "golden.safetensors")
    batch, other = batch_from_columns(stored)._asdict(), batch_from_columns(expected)._asdict()
    assert all(np.array_equal(batch[name], column) for name, column in other.items())


def test_a_changed_graph_is_refused_like_any_damage(tmp_path: Path) -> None:
    address = publish(tmp_path, "base", 1, with_graph=True)
    file = tmp_path / address / "golden.safetensors"
    raw, graph = file.read_bytes(), artifact.load(tmp_path, address).graph
    assert graph is not None
    at = raw.index(graph) + len(graph) // 2
    file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with pytest.raises(ArtifactError, match="hash of the manifest"):
        artifact.load(tmp_path, address)


def test_a_delta_has_a_graph_too(tmp_path: Path) -> None:
    base = publish(tmp_path, "base", 1, model="din", with_graph=True)
    version = artifact.load(tmp_path, publish_delta(tmp_path, base, 2, rows=[3, 4]))
    assert version.graph is not None
    assert version.graph == artifact.load(tmp_path, base).graph
    check(Graph(version.graph, version.weights).scores(version.golden), version.golden_scores, version.golden.cand_mask)


def test_a_model_without_a_graph_is_written_without_one_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger=writing.__name__):
        address = publish(tmp_path, "base", 1, model="dlcm", with_graph=True)
    assert artifact.load(tmp_path, address).graph is None
    assert "is written without a graph: model dlcm has no graph: " in caplog.text


def test_a_graph_with_other_scores_than_torch_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = onnx_export.export

    def of_another_activation(*args: object) -> bytes:
        return export(*args).replace(b"Relu", b"Tanh")  # type: ignore[arg-type]

    monkeypatch.setattr(onnx_export, "export", of_another_activation)
    with caplog.at_level(logging.WARNING, logger=writing.__name__):
        address = publish(tmp_path, "base", 1, with_graph=True)
    assert artifact.load(tmp_path, address).graph is None
    assert "scores of the graph differ by" in caplog.text


def test_a_trainer_writes_graphs_if_its_settings_say_so(tmp_path: Path) -> None:
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    feed(make_loop(tmp_path, engine, settings=replace(SETTINGS, onnx_graph=True)), make_log(40))
    newest = artifact.load(tmp_path / "artifacts", Registry(engine).versions("test")[-1].artifact)
    assert newest.graph is not None
    found = Graph(newest.graph, newest.weights).scores(newest.golden)
    check(found, newest.golden_scores, newest.golden.cand_mask)
