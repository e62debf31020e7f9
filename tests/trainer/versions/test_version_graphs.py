"""Graphs that a trainer adds to versions, with the gate of int8."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from stream import db
from stream.errors import ArtifactError
from tests.serving.world import publish
from tests.trainer.harness import SETTINGS, feed, make_loop
from tests.trainer.session_log import make_log
from trainer.versions import artifact, int8_export, version_graphs
from trainer.versions.graph import Graph
from trainer.versions.int8 import Limits, agreement
from trainer.versions.registry import Registry

WIDE = Limits(min_correlation=0.9, max_churn=1.0)


def test_an_int8_graph_stands_in_a_version_with_its_numbers_and_limits(tmp_path: Path) -> None:
    version = artifact.load(tmp_path, publish(tmp_path, "base", 1, with_graph=True, int8=WIDE))
    assert version.graph is not None
    assert version.int8_graph is not None
    scores = Graph(version.int8_graph, version.weights).scores(version.golden)
    found = agreement(scores, version.golden_scores, version.golden.cand_mask)
    assert version.manifest.metrics == pytest.approx(WIDE.to_metrics() | found.to_metrics(), abs=1e-3)
    assert 0.9 < found.correlation < 1.0


def test_an_int8_graph_is_made_only_if_it_is_asked_for(tmp_path: Path) -> None:
    version = artifact.load(tmp_path, publish(tmp_path, "base", 1, with_graph=True))
    assert version.int8_graph is None
    assert version.manifest.metrics == {}


def test_an_int8_graph_beyond_its_limits_is_left_out_and_the_manifest_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(min_correlation=1.0, max_churn=0.0)
    with caplog.at_level(logging.WARNING, logger=version_graphs.__name__):
        version = artifact.load(tmp_path, publish(tmp_path, "base", 1, with_graph=True, int8=limits))
    assert (version.graph is None, version.int8_graph) == (False, None)
    assert "version 1 of base is written without an int8 graph: the rank correlation of int8" in caplog.text
    metrics = version.manifest.metrics
    assert metrics["int8_correlation"] < metrics["int8_min_correlation"] == 1.0
    assert metrics["int8_max_churn"] == 0.0 <= metrics["int8_churn"]


def test_a_failing_export_costs_the_int8_graph_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise ArtifactError("cannot be quantized")

    monkeypatch.setattr(int8_export, "export", fail)
    version = artifact.load(tmp_path, publish(tmp_path, "base", 1, with_graph=True, int8=WIDE))
    assert (version.graph is None, version.int8_graph) == (False, None)
    assert version.manifest.metrics == WIDE.to_metrics()


def test_a_changed_int8_graph_is_refused_like_any_damage(tmp_path: Path) -> None:
    address = publish(tmp_path, "base", 1, with_graph=True, int8=WIDE)
    graph = artifact.load(tmp_path, address).int8_graph
    assert graph is not None
    file = tmp_path / address / "golden.safetensors"
    raw = file.read_bytes()
    at = raw.index(graph) + len(graph) // 2
    file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with pytest.raises(ArtifactError, match="hash of the manifest"):
        artifact.load(tmp_path, address)


def test_a_trainer_writes_int8_graphs_and_registers_their_numbers(tmp_path: Path) -> None:
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    settings = replace(SETTINGS, onnx_graph=True, onnx_int8=True, int8_min_correlation=0.5, int8_max_churn=1.0)
    feed(make_loop(tmp_path, engine, settings=settings), make_log(40))
    newest = Registry(engine).versions("test")[-1]
    assert artifact.load(tmp_path / "artifacts", newest.artifact).int8_graph is not None
    assert newest.metrics["int8_min_correlation"] == 0.5
    assert 0.5 < newest.metrics["int8_correlation"] <= 1.0  # type: ignore[operator] # JSON of SQL
