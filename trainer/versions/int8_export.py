"""Export of a version's int8 graph: its graph with weights inside, matrices of them as 8-bit integers.

The runtime rounds what is multiplied by them at each list to 8 bits too (dynamic quantization). Tables of ids stay
inputs in full precision.

Source: ONNX Runtime, "Quantize ONNX models"; docs/training.md, "Graphs".
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from stream.errors import ArtifactError
from trainer.versions.graph import StoredGraph, decode, encode

# By this property the tool knows that constants are folded, and does not ask for it in a warning.
_PREPARED: Final = {"onnx.quant.pre_process": "onnxruntime.quant"}


def export(graph: bytes, weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return the encoded `StoredGraph` with int8 weights.

    Args:
        graph: The encoded graph of the model.
        weights: The dense weights of the version by name.

    Raises:
        ArtifactError: If the graph cannot be quantized.
    """
    stored = decode(graph)
    if stored.pages is not None:
        raise ArtifactError("the model chooses pages, whose order a rounded evaluator would change")
    model = onnx.load_model_from_string(stored.model)
    for each in model.graph.initializer:
        each.ClearField("external_data")
        each.ClearField("data_location")
        each.raw_data = np.ascontiguousarray(weights[each.name]).tobytes()
    try:
        with tempfile.TemporaryDirectory() as folder:
            quantize_dynamic(
                _folded(model, Path(folder) / "folded.onnx"),
                Path(folder) / "int8.onnx",
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
            return encode(StoredGraph(dense=[], model=(Path(folder) / "int8.onnx").read_bytes()))
    except Exception as error:
        raise ArtifactError(f"the graph cannot be quantized: {error!r:.200}") from error


def _folded(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return the model with transposed weights in place of transpositions, so that they are constants."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(path)
    onnx.helper.set_model_props(folded, _PREPARED)
    return folded
