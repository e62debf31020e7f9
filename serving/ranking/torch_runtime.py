"""Forward passes of versions by torch; no other module of serving imports it.

Weights are arguments of a compiled graph, so versions of one architecture share it.

Source: docs/serving.md, docs/training.md.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stream.errors import ArtifactError
from trainer.features import Batch
from trainer.models import MODELS, ModelConfig, Outputs, TensorBatch, call, golden_scores, to_torch
from trainer.versions.artifact import LoadedVersion

Forward = Callable[[Batch], NDArray[np.float32]]


def use_one_thread() -> None:
    """Limit torch to one thread, because the inference thread scores one list at a time beside the event loop."""
    torch.set_num_threads(1)


def eager(version: LoadedVersion, read: Callable[[Outputs], Tensor] = lambda outputs: outputs.logit) -> Forward:
    """Return the forward pass of a version, for the scores that `read` takes of its outputs.

    Raises:
        ArtifactError: If the weights are not those of its model.
    """
    try:
        module = MODELS[version.model_name].load(version.config, version.params)
    except RuntimeError as error:
        raise ArtifactError(f"{version.sha256}: the weights are not those of its model: {error}") from error
    return _without_gradients(lambda batch: read(module(to_torch(batch))))


def golden(version: LoadedVersion, forward: Forward) -> Forward:
    """Return the pass whose scores a golden set has: `forward`, unless the model's scores jump between orders."""
    return eager(version, golden_scores) if MODELS[version.model_name].chooses_pages else forward


def compiled(version: LoadedVersion) -> Forward:
    """Return the forward pass of a version by a graph that torch compiles at the first call."""
    graph, weights = _graph(version.model_name, version.config), dict(version.params)
    return _without_gradients(lambda batch: graph(weights, to_torch(batch)))


def _without_gradients(logits: Callable[[Batch], Tensor]) -> Forward:
    def forward(batch: Batch) -> NDArray[np.float32]:
        with torch.inference_mode():
            return logits(batch).float().numpy()

    return forward


@lru_cache(maxsize=8)
def _graph(model_name: str, config: ModelConfig) -> Callable[[dict[str, Tensor], TensorBatch], Tensor]:
    """Return the compiled graph that all versions of one architecture share: weights are its arguments."""
    module = MODELS[model_name].build(config)
    return torch.compile(lambda weights, batch: call(module, weights, batch).logit)
