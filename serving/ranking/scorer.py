"""Scoring of lists by one version with torch; no other module of serving imports torch.

Weights are arguments of the forward pass, so versions of one architecture share one compiled graph.

Source: docs/serving.md, docs/training.md.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from stream.errors import ArtifactError
from trainer.features import FEATURE_SCHEMA, Batch, SessionExample, collate
from trainer.models import MODELS, ModelConfig, to_torch
from trainer.versions import artifact

Forward = Callable[[Mapping[str, Tensor], Batch], Tensor]


class Scorer(Protocol):
    """Model of one version."""

    def score(self, example: SessionExample) -> Sequence[float]:
        """Return one score per candidate of the example, in its order; higher is better."""
        ...


class TorchScorer:
    """Forward pass of one verified version, without gradients."""

    def __init__(self, version: artifact.LoadedVersion, *, compiled: bool = False) -> None:
        """Prepare the forward pass.

        Args:
            version: The version, with its weights in memory.
            compiled: Whether torch compiles the forward pass.

        Raises:
            ArtifactError: If the version was trained on another feature schema.
        """
        if version.manifest.feature_schema != FEATURE_SCHEMA:
            raise ArtifactError(
                f"{version.sha256}: feature schema {version.manifest.feature_schema}, serving has {FEATURE_SCHEMA}"
            )
        self._version = version
        self._compiled = compiled
        self._forward = _forward(version.model_name, version.config, compiled=compiled)

    def score(self, example: SessionExample) -> Sequence[float]:
        """Return the logits of the example's candidates."""
        config = self._version.config
        batch = collate(
            [example],
            self._version.id_maps,
            width=config.vector_width,
            history=config.history,
            fixed=self._compiled,
        )
        scores: list[float] = self._run(batch)[0, : len(example.item_ids)].tolist()
        return scores

    def verify(self) -> float:
        """Score the golden set in this process and return the largest difference from the trainer's scores.

        Raises:
            ArtifactError: If the difference exceeds the tolerance, or the weights do not fit the architecture.
        """
        return artifact.check_golden(self._version, lambda batch: self._run(batch).float().numpy())

    def warm_up(self, num_runs: int = 3) -> None:
        """Score single golden lists, so that the first request does not pay for first calls."""
        one = Batch._make(column[:1] for column in self._version.golden)
        for _ in range(num_runs):
            self._run(one)

    def _run(self, batch: Batch) -> Tensor:
        with torch.inference_mode():
            return self._forward(self._version.params, batch)


def load(folder: Path, sha256: str, *, compiled: bool = False) -> TorchScorer:
    """Return the scorer of a version, verified and warm.

    Raises:
        ArtifactError: If the version is incomplete or damaged, or its golden scores differ in this process.
    """
    scorer = TorchScorer(artifact.load(folder, sha256), compiled=compiled)
    scorer.verify()
    scorer.warm_up()
    return scorer


def use_one_thread() -> None:
    """Limit torch to one thread, because the inference thread scores one list at a time beside the event loop."""
    torch.set_num_threads(1)


@lru_cache(maxsize=8)
def _forward(model_name: str, config: ModelConfig, *, compiled: bool) -> Forward:
    spec = MODELS[model_name]

    def logits(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return spec.forward(config, params, to_torch(batch)).logit

    if not compiled:
        return logits
    graph = torch.compile(lambda params, tensors: spec.forward(config, params, tensors).logit)
    return lambda params, batch: graph(dict(params), to_torch(batch))
