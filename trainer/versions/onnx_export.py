"""Export of a model's forward pass as an ONNX graph without weights, for `trainer.versions.graph`.

The graph scores one list, whose candidates are all real. It depends on the model and its configuration alone: dense
weights are initializers without data, which a session gets from the version's files, and tables of ids are inputs of
any number of rows.

Source: ONNX, "External Data"; docs/training.md, "Graphs".
"""

import io
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stream.errors import ArtifactError
from trainer.features.collate import MODEL_INPUTS, Batch
from trainer.models import MODELS, ModelConfig, TensorBatch, to_device
from trainer.versions.graph import StoredGraph, encode
from trainer.versions.graph_forms import OPSETS, OneList, simplify

NOT_EXPORTABLE: Final[Mapping[str, str]] = {
    "dlcm": "ONNX has no operator for its stable sort (aten::sort with out), and its GRU is a loop over the list",
    "pier": "its candidate orders come from a search whose size depends on the length of the list",
    "mmr": "its greedy choice is a loop over the list, which a graph of another length would not repeat",
    "dpp": "its greedy choice is a loop over the list, which a graph of another length would not repeat",
}
"""Models without a graph, and why."""

_OPSET: Final = 17
_OUTPUT: Final = "logit"
_ROWS: Final = "rows."
# One list of five candidates and four behaviours: these lengths are not 1, which a trace would take for a constant.
_LENGTHS: Final = {"cand": 5, "hist": 4}


def export(model: str, config: ModelConfig, sample: Batch) -> bytes:
    """Return the encoded `StoredGraph` of a model.

    Args:
        model: Its name in `MODELS`.
        config: Its configuration.
        sample: At least one list, from which types and widths are taken.

    Raises:
        ArtifactError: If the model has none.
    """
    if model in NOT_EXPORTABLE:
        raise ArtifactError(f"model {model} has no graph: {NOT_EXPORTABLE[model]}")
    widths = tuple((column.dtype.str, column.shape[_num_lengths(name) :]) for name, column in _inputs(sample).items())
    return _export(model, config, widths)


@lru_cache(maxsize=4)
def _export(model: str, config: ModelConfig, widths: tuple[tuple[str, tuple[int, ...]], ...]) -> bytes:
    sizes = {name: (1, *_list_length(name)) for name in MODEL_INPUTS}
    arrays = [np.zeros((*sizes[name], *rest), kind) for name, (kind, rest) in zip(MODEL_INPUTS, widths, strict=True)]
    # The exporter makes weights of equal values one, so no two may be equal, as fresh biases are.
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(weight.shape).normal_(generator=generator)
        for name, weight in MODELS[model].init(config, 0).items()
    }
    module = MODELS[model].load(config, weights)
    simplify(module)
    forward = _Forward(module)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter by tracing is deprecated, and warns of each length that Python sees.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            forward,
            tuple(to_device(arrays)),
            buffer,  # type: ignore[arg-type] # a file is expected by the other exporter only
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
            opset_version=_OPSET,
            custom_opsets=OPSETS,
            input_names=[*MODEL_INPUTS, *(name.removeprefix("module.") for name, _ in forward.named_parameters())],
            output_names=[_OUTPUT],
            dynamic_axes=_dynamic_axes(weights),
        )
    return _without_weights(onnx.load_model_from_string(buffer.getvalue()), weights)


class _Forward(nn.Module):
    """The logits of a model for one list without padding, as a function of the fields that it reads."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *fields: Tensor) -> Tensor:
        # Forward passes never read the other fields.
        batch = TensorBatch(*fields, *[None] * (len(TensorBatch._fields) - len(fields)))
        with OneList(batch.cand_mask):
            return torch.as_tensor(self.module(batch, None).logit)


def _inputs(batch: Batch) -> dict[str, NDArray[np.generic]]:
    return {name: getattr(batch, name) for name in MODEL_INPUTS}


def _list_length(name: str) -> tuple[int, ...]:
    return tuple(length for kind, length in _LENGTHS.items() if name.startswith(f"{kind}_"))


def _num_lengths(name: str) -> int:
    return 1 + len(_list_length(name))


def _dynamic_axes(weights: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
    axes: dict[str, dict[int, str]] = {}
    for kind, axis in (("cand_", "candidates"), ("hist_", "behaviours")):
        axes |= {name: {1: axis} for name in MODEL_INPUTS if name.startswith(kind)}
    axes[_OUTPUT] = {1: "candidates"}
    return axes | {name: {0: name} for name in weights if name.startswith(_ROWS)}


def _without_weights(model: onnx.ModelProto, weights: Mapping[str, Tensor]) -> bytes:
    """Return the graph with initializers whose data is elsewhere in place of inputs for dense weights."""
    graph = model.graph
    dense = [each.name for each in graph.input if each.name not in MODEL_INPUTS and not each.name.startswith(_ROWS)]
    inputs = [each for each in graph.input if each.name not in dense]
    del graph.input[:]
    graph.input.extend(inputs)
    for name in dense:
        tensor = graph.initializer.add()
        tensor.name, tensor.data_type = name, onnx.TensorProto.FLOAT
        tensor.dims.extend(weights[name].shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        location = tensor.external_data.add()
        location.key, location.value = "location", "dense"
    return encode(StoredGraph(dense=dense, model=bytes(model.SerializeToString(deterministic=True))))
