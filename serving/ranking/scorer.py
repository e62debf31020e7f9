"""The model behind a list of candidates: one version, one inference thread, torch stays in here.

Weights are arguments of the forward pass, so versions of one architecture share one compiled graph.

Source: TRAINING_SERVING.md 8.1, MODELS.md 1.
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
    """Scores one list; higher is better."""

    def score(self, example: SessionExample) -> Sequence[float]:
        """Return one score per candidate of the example, in its order."""
        ...


class TorchScorer:
    """Runs one verified version; one intra-op thread, no gradients."""

    def __init__(self, version: artifact.LoadedVersion, *, compiled: bool = False) -> None:
        """Take a version into use.

        Raises:
            ArtifactError: If it was trained on another feature schema.
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
        """Score the golden sessions in this very runtime and return the largest difference from the trainer's scores.

        Raises:
            ArtifactError: If it exceeds the tolerance, or the weights do not fit the architecture.
        """
        return artifact.check_golden(self._version, lambda batch: self._run(batch).float().numpy())

    def warm_up(self, num_runs: int = 3) -> None:
        """Run single golden lists, so that the first request pays for no first call."""
        one = Batch._make(column[:1] for column in self._version.golden)
        for _ in range(num_runs):
            self._run(one)

    def _run(self, batch: Batch) -> Tensor:
        with torch.inference_mode():
            return self._forward(self._version.params, batch)


def load(folder: Path, sha256: str, *, compiled: bool = False) -> TorchScorer:
    """Return a version that is complete, undamaged, gives the golden scores here, and is warm.

    Raises:
        ArtifactError: If it is not.
    """
    scorer = TorchScorer(artifact.load(folder, sha256), compiled=compiled)
    scorer.verify()
    scorer.warm_up()
    return scorer


def use_one_thread() -> None:
    """Keep torch from starting a thread per core: lists are scored one at a time beside the event loop."""
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
