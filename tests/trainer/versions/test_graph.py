import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from stream.errors import ArtifactError
from tests.trainer.lists import batch_of, catalogue, labelled
from trainer.models import MODELS
from trainer.versions.graph import GRAPH_TOLERANCE, Graph, check, decode, encode
from trainer.versions.onnx_export import export

BATCH = batch_of([labelled(seed, catalogue()) for seed in range(3)])
CONFIG = MODELS["mlp"].profiles["tiny"]


def weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    return {name: weight.numpy() for name, weight in MODELS["mlp"].init(CONFIG, seed).items()}


def test_versions_share_a_graph_and_have_scores_of_their_own() -> None:
    graph = export("mlp", CONFIG, BATCH)
    one, other = Graph(graph, weights(1)), Graph(graph, weights(2))
    assert np.array_equal(one.scores(BATCH), Graph(graph, weights(1)).scores(BATCH))
    assert not np.allclose(one.scores(BATCH), other.scores(BATCH))


def test_a_runtime_has_its_own_dense_weights_and_reads_tables_in_place() -> None:
    own = {name: weight.copy() for name, weight in weights().items()}
    graph = Graph(export("mlp", CONFIG, BATCH), own)
    before = graph.scores(BATCH)
    tables = [name for name in own if name.startswith("rows.")]
    for name in own.keys() - tables:
        own[name][...] = np.nan
    assert np.array_equal(graph.scores(BATCH), before)
    for name in tables:
        own[name][...] = 1.0
    assert not np.allclose(graph.scores(BATCH), before)


@pytest.mark.parametrize("fault", ["damaged", "missing", "table", "shape"])
def test_a_graph_and_weights_that_do_not_belong_together_are_refused(fault: str) -> None:
    graph, own = export("mlp", CONFIG, BATCH), weights()
    first = sorted(name for name in own if not name.startswith("rows."))[0]
    if fault == "damaged":
        graph = graph[: len(graph) // 2]
    elif fault == "missing":
        del own[first]
    elif fault == "table":
        del own["rows.category"]
    else:
        own[first] = np.zeros((5, 5, 5), np.float32)
    with pytest.raises(ArtifactError, match="not those of its graph"):
        Graph(graph, own)


def with_end(graph: bytes, last: onnx.NodeProto, *constants: onnx.TensorProto) -> bytes:
    """Return a graph whose scores go through another operation, from `before` to `logit`."""
    stored = decode(graph)
    model = onnx.load_model_from_string(stored.model)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["before" if name == "logit" else name for name in names]
    model.graph.initializer.extend(constants)
    model.graph.node.append(last)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    is_cast = last.op_type == "Cast"
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE if is_cast else onnx.TensorProto.FLOAT
    return encode(msgspec.structs.replace(stored, model=model.SerializeToString()))


@pytest.mark.parametrize("fault", ["dimension", "type"])
def test_scores_of_another_form_than_requests_need_are_a_runtime_error(fault: str) -> None:
    """Among others, where golden sessions are scored, the numbers alone would look right."""
    graph = export("mlp", CONFIG, BATCH)
    if fault == "dimension":
        last = onnx.helper.make_node("Unsqueeze", ["before", "axes"], ["logit"])
        graph = with_end(graph, last, onnx.numpy_helper.from_array(np.array([0]), "axes"))
    else:
        graph = with_end(graph, onnx.helper.make_node("Cast", ["before"], ["logit"], to=onnx.TensorProto.DOUBLE))
    with pytest.raises(RuntimeError, match=r"the graph gives .* for \[1,"):
        Graph(graph, weights()).golden(BATCH)


def test_an_input_that_no_batch_has_is_refused() -> None:
    stored = decode(export("mlp", CONFIG, BATCH))
    model = onnx.load_model_from_string(stored.model)
    model.graph.input.append(onnx.helper.make_tensor_value_info("secret", onnx.TensorProto.FLOAT, [1]))
    with pytest.raises(ArtifactError, match="secret"):
        Graph(encode(msgspec.structs.replace(stored, model=model.SerializeToString())), weights())


def test_a_batch_that_cannot_be_scored_is_a_runtime_error() -> None:
    graph = Graph(export("mlp", CONFIG, BATCH), weights())
    with pytest.raises(RuntimeError, match="ONNX Runtime"):
        graph.scores(BATCH._replace(cand_num=BATCH.cand_num[..., :3]))


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
def test_scores_agree_within_the_tolerance_of_their_size(scale: float) -> None:
    rng = np.random.default_rng(0)
    expected = (scale * rng.normal(size=(8, 30))).astype(np.float32)
    mask = np.arange(30) < 20
    mask = np.broadcast_to(mask, expected.shape)
    size = max(1.0, float(np.sqrt(np.square(expected[mask]).mean())))
    near, far = expected.copy(), expected.copy()
    near[~mask] = 9.0
    near[mask] += 0.5 * size * GRAPH_TOLERANCE
    far[mask] += 3 * size * GRAPH_TOLERANCE
    assert check(near, expected, mask) < size * GRAPH_TOLERANCE
    with pytest.raises(ArtifactError, match="differ"):
        check(far, expected, mask)
    far[0, 0] = np.nan
    with pytest.raises(ArtifactError, match="differ"):
        check(far, expected, mask)
