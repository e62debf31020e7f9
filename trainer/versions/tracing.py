"""Traces of modules as ONNX models without weights.

Dense weights become initializers without data, which a session gets from the version's files, and tables of ids become
inputs of any number of rows.

Source: ONNX, "External Data"; docs/training.md, "Graphs".
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import onnx
import torch
from torch import Tensor, nn

from trainer.models import MODELS, ModelConfig, TensorBatch
from trainer.versions.graph_forms import OPSETS, simplify

Axes = Mapping[str, Mapping[int, str]]

_OPSET: Final = 17
_ROWS: Final = "rows."


class Traced(NamedTuple):
    """A model without weights.

    Attributes:
        dense: Names of the dense weights that it needs.
        model: The serialized ONNX model.
    """

    dense: list[str]
    model: bytes


def to_trace(model: str, config: ModelConfig) -> nn.Module:
    """Return a module of a model whose traces have the forms of a graph.

    The exporter makes weights of equal values one, so no two of its weights are equal, as fresh biases are.
    """
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(weight.shape).normal_(generator=generator)
        for name, weight in MODELS[model].init(config, 0).items()
    }
    module = MODELS[model].load(config, weights)
    simplify(module)
    return module


def batch_of(fields: Sequence[Tensor]) -> TensorBatch:
    """Return the fields that forward passes read as a batch without the others."""
    return TensorBatch(*fields, *[None] * (len(TensorBatch._fields) - len(fields)))


def traced(forward: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], axes: Axes) -> Traced:
    """Return the ONNX model of a forward pass.

    Args:
        forward: A module whose attribute `module` is that of `to_trace`, and whose `forward` takes the inputs.
        inputs: Values of the inputs by name, in the order in which `forward` takes them.
        outputs: Names of the outputs.
        axes: Axes of inputs and outputs that have any length, by name.
    """
    weights = {name.removeprefix("module."): weight for name, weight in forward.named_parameters()}
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter by tracing is deprecated, and warns of each length that Python sees.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            forward,
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type] # a file is expected by the other exporter only
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
            opset_version=_OPSET,
            custom_opsets=OPSETS,
            input_names=[*inputs, *weights],
            output_names=list(outputs),
            dynamic_axes={name: dict(own) for name, own in axes.items()}
            | {name: {0: name} for name in weights if name.startswith(_ROWS)},
        )
    return _without_weights(onnx.load_model_from_string(buffer.getvalue()), inputs.keys(), weights)


def _without_weights(model: onnx.ModelProto, inputs: AbstractSet[str], weights: Mapping[str, Tensor]) -> Traced:
    """Return the model with initializers whose data is elsewhere in place of inputs for dense weights."""
    graph = model.graph
    dense = [each.name for each in graph.input if each.name not in inputs and not each.name.startswith(_ROWS)]
    kept = [each for each in graph.input if each.name not in dense]
    del graph.input[:]
    graph.input.extend(kept)
    for name in dense:
        tensor = graph.initializer.add()
        tensor.name, tensor.data_type = name, onnx.TensorProto.FLOAT
        tensor.dims.extend(weights[name].shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        location = tensor.external_data.add()
        location.key, location.value = "location", "dense"
    return Traced(dense, bytes(model.SerializeToString(deterministic=True)))
