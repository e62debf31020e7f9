import onnx
import pytest

from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.models import MODELS
from trainer.models.blocks import EncoderLayer
from trainer.versions.graph import Graph, decode
from trainer.versions.onnx_export import export

KNOWN = catalogue()
SAMPLE = batch_of([labelled(0, KNOWN, n=6, depth=3)])


@pytest.mark.parametrize("model", ["armmt", "prm"])
def test_a_graph_attends_in_one_operation_and_chooses_nothing_by_padding(model: str) -> None:
    config = MODELS[model].profiles["tiny"]
    graph = onnx.load_model_from_string(decode(export(model, config, SAMPLE)).model).graph
    layers = sum(
        isinstance(each, EncoderLayer) for each in MODELS[model].load(config, MODELS[model].init(config, 0)).modules()
    )
    ops = [node.op_type for node in graph.node]
    assert ops.count("MultiHeadAttention") == layers
    assert "If" not in ops
    # Its length is read, and its candidates are counted.
    assert {node.op_type for node in graph.node if "cand_mask" in node.input} <= {"Shape", "Cast"}


def test_a_list_has_the_same_scores_alone_and_among_others() -> None:
    config = MODELS["armmt"].profiles["tiny"]
    weights = {name: weight.numpy() for name, weight in MODELS["armmt"].init(config, 3).items()}
    graph = Graph(export("armmt", config, SAMPLE), weights)
    known = [labelled(seed, KNOWN, n=n, depth=4) for seed, n in enumerate((7, 30, 2))]
    together = graph.scores(batch_of(known))
    for number, one in enumerate(known):
        alone = graph.scores(batch_of([one]))[0]
        assert together[number, : len(alone)].tolist() == alone.tolist()
        assert not together[number, len(alone) :].any()
