"""The graphs that a trainer adds to a version: in full precision, and int8 if that is asked for.

A graph that fails is left out with a warning, and the version is published without it.

Source: docs/training.md, "Graphs".
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stream.errors import ArtifactError
from trainer.features import Batch
from trainer.models import ModelConfig
from trainer.versions.artifact import GRAPH, INT8_GRAPH, Manifest
from trainer.versions.int8 import Limits, agreement

_log = logging.getLogger(__name__)


class Graphs(NamedTuple):
    """Graphs of one version.

    Attributes:
        tensors: Their bytes by name of the tensor.
        metrics: What the manifest tells about them.
    """

    tensors: dict[str, NDArray[np.uint8]]
    metrics: dict[str, float]


def make(
    manifest: Manifest,
    config: ModelConfig,
    params: Mapping[str, Tensor],
    batch: Batch,
    scores: NDArray[np.float32],
    *,
    int8: Limits | None,
) -> Graphs:
    """Return the graphs of a version that pass their checks.

    Args:
        manifest: Manifest of the version.
        config: Configuration of its model.
        params: Its weights, of the tables of ids only the rows of the batch.
        batch: The golden sessions with the slots of these rows.
        scores: Their scores [B,n] by torch.
        int8: Limits of an int8 graph; None makes none.
    """
    # ONNX and its runtime take memory and time that only versions with graphs are worth.
    from trainer.versions.graph import Graph, check
    from trainer.versions.onnx_export import export

    name = f"version {manifest.version} of {manifest.lineage}"
    weights = {key: weight.numpy() for key, weight in params.items()}
    try:
        graph = export(manifest.model, config, batch)
        worst = check(Graph(graph, weights).golden(batch), scores, batch.cand_mask)
    except ArtifactError as error:
        _log.warning("%s is written without a graph: %s", name, error)
        return Graphs({}, {})
    _log.info("%s: largest difference of the graph %.1e", name, worst)
    found = Graphs({GRAPH: np.frombuffer(graph, np.uint8)}, {})
    return found if int8 is None else _with_int8(name, found, weights, batch, scores, int8)


def _with_int8(
    name: str,
    graphs: Graphs,
    weights: Mapping[str, NDArray[np.float32]],
    batch: Batch,
    scores: NDArray[np.float32],
    limits: Limits,
) -> Graphs:
    from trainer.versions.graph import Graph
    from trainer.versions.int8_export import export

    metrics = limits.to_metrics()
    try:
        graph = export(graphs.tensors[GRAPH].tobytes(), weights)
        found = agreement(Graph(graph, weights).scores(batch), scores, batch.cand_mask)
        metrics |= found.to_metrics()
        found.check(limits)
    except ArtifactError as error:
        _log.warning("%s is written without an int8 graph: %s", name, error)
        return Graphs(graphs.tensors, metrics)
    _log.info("%s: int8 scores: rank correlation %.4f, churn %.1f %%", name, found.correlation, 100 * found.churn)
    return Graphs(graphs.tensors | {INT8_GRAPH: np.frombuffer(graph, np.uint8)}, metrics)
