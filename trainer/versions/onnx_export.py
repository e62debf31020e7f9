"""Export of a model's forward pass as an ONNX graph without weights, for `trainer.versions.graph`.

The graph scores one list, whose candidates are all real. It depends on the model and its configuration alone.

Source: docs/training.md, "Graphs".
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stream.errors import ArtifactError
from trainer.configs.pier import PierConfig
from trainer.features.collate import MODEL_INPUTS, Batch
from trainer.models import ModelConfig, to_device
from trainer.versions import page_export
from trainer.versions.graph import LOGIT, StoredGraph, encode
from trainer.versions.graph_forms import OneList
from trainer.versions.tracing import batch_of, to_trace, traced

_NOT_EXPORTABLE: Final[Mapping[str, str]] = {
    "dlcm": "ONNX has no operator for its stable sort (aten::sort with out), and its GRU is a loop over the list",
    "mmr": "its greedy choice is a loop over the list, which a graph of another length would not repeat",
    "dpp": "its greedy choice is a loop over the list, which a graph of another length would not repeat",
}
# One list of five candidates and four behaviours: these lengths are not 1, which a trace would take for a constant.
_LENGTHS: Final = {"cand": 5, "hist": 4}


def reason_against(model: str, config: ModelConfig) -> str | None:
    """Return why a model of this configuration has no graph; None if it has one."""
    if isinstance(config, PierConfig) and config.evaluator != "ocpm":
        return f"its evaluator {config.evaluator} scores many pages at once, and its graph a single list"
    return _NOT_EXPORTABLE.get(model)


def export(model: str, config: ModelConfig, sample: Batch) -> bytes:
    """Return the encoded `StoredGraph` of a model.

    Args:
        model: Its name in `MODELS`.
        config: Its configuration.
        sample: At least one list, from which types and widths are taken.

    Raises:
        ArtifactError: If the model has none.
    """
    if reason := reason_against(model, config):
        raise ArtifactError(f"model {model} has no graph: {reason}")
    widths = tuple((column.dtype.str, column.shape[_num_lengths(name) :]) for name, column in _inputs(sample).items())
    return _export(model, config, widths)


@lru_cache(maxsize=4)
def _export(model: str, config: ModelConfig, widths: tuple[tuple[str, tuple[int, ...]], ...]) -> bytes:
    sizes = {name: (1, *_list_length(name)) for name in MODEL_INPUTS}
    arrays = [np.zeros((*sizes[name], *rest), kind) for name, (kind, rest) in zip(MODEL_INPUTS, widths, strict=True)]
    inputs = dict(zip(MODEL_INPUTS, to_device(arrays), strict=True))
    module = to_trace(model, config)
    if isinstance(config, PierConfig):
        return encode(page_export.stored(module, config, inputs, _axes()))
    graph = traced(_Forward(module), inputs, [LOGIT], {**_axes(), LOGIT: {1: "candidates"}})
    return encode(StoredGraph(dense=graph.dense, model=graph.model))


class _Forward(nn.Module):
    """The logits of a model for one list without padding, as a function of the fields that it reads."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *fields: Tensor) -> Tensor:
        batch = batch_of(fields)
        with OneList(batch.cand_mask):
            return torch.as_tensor(self.module(batch, None).logit)


def _inputs(batch: Batch) -> dict[str, NDArray[np.generic]]:
    return {name: getattr(batch, name) for name in MODEL_INPUTS}


def _list_length(name: str) -> tuple[int, ...]:
    return tuple(length for kind, length in _LENGTHS.items() if name.startswith(f"{kind}_"))


def _num_lengths(name: str) -> int:
    return 1 + len(_list_length(name))


def _axes() -> dict[str, dict[int, str]]:
    axes: dict[str, dict[int, str]] = {}
    for kind, axis in (("cand_", "candidates"), ("hist_", "behaviours")):
        axes |= {name: {1: axis} for name in MODEL_INPUTS if name.startswith(kind)}
    return axes
