import numpy as np
import pytest

from stream.errors import ArtifactError
from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.models import MODELS
from trainer.versions import int8_export, onnx_export
from trainer.versions.graph import Graph, decode, encode
from trainer.versions.int8 import agreement

BATCH = batch_of([labelled(seed, catalogue()) for seed in range(3)])
CONFIG = MODELS["prm"].profiles["tiny"]
WEIGHTS = {name: weight.numpy() for name, weight in MODELS["prm"].init(CONFIG, 1).items()}


def test_an_int8_graph_has_the_weights_inside_rounded_and_takes_tables_of_ids() -> None:
    graph = onnx_export.export("prm", CONFIG, BATCH)
    small = int8_export.export(graph, WEIGHTS)
    assert b"DynamicQuantizeLinear" in small
    assert decode(small).dense == []
    assert int8_export.export(graph, WEIGHTS) == small
    tables = {name: rows for name, rows in WEIGHTS.items() if name.startswith("rows.")}
    expected = Graph(graph, WEIGHTS).scores(BATCH)
    found = Graph(small, tables).scores(BATCH)
    assert 1e-5 < np.abs(found - expected)[BATCH.cand_mask].max() < 0.2 * np.abs(expected[BATCH.cand_mask]).max()
    assert agreement(found, expected, BATCH.cand_mask).correlation > 0.95
    other = Graph(small, {name: -rows for name, rows in tables.items()}).scores(BATCH)
    assert not np.array_equal(other, found)


def test_a_graph_that_cannot_be_quantized_is_refused() -> None:
    stored = decode(onnx_export.export("prm", CONFIG, BATCH))
    damaged = stored.model.replace(b"MatMul", b"NatMul")
    with pytest.raises(ArtifactError, match="cannot be quantized"):
        int8_export.export(encode(type(stored)(dense=stored.dense, model=damaged)), WEIGHTS)
