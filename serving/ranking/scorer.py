"""Scoring of lists by one version with torch; no other module of serving imports torch.

Weights are arguments of a compiled graph, so versions of one architecture share it.

Source: docs/serving.md, docs/training.md.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from stream.errors import ArtifactError
from trainer.features import Batch, Examples, collate
from trainer.features.id_maps import count_candidates
from trainer.features.slot_cache import SlotCache
from trainer.models import MODELS, ModelConfig, TensorBatch, call, to_torch
from trainer.versions import artifact
from trainer.versions.signature import NO_KEYS, VersionKeys

Forward = Callable[[Batch], Tensor]
Count = Callable[[Mapping[tuple[str, str], int]], None]


class Scorer(Protocol):
    """Model of one version."""

    def score(self, example: Examples) -> Sequence[float]:
        """Return one score per candidate of the example of one list, in its order; higher is better."""
        ...


class TorchScorer:
    """Forward pass of one verified version, without gradients."""

    def __init__(
        self, version: artifact.LoadedVersion, *, compiled: bool = False, count: Count = lambda _: None
    ) -> None:
        """Prepare the forward pass.

        Args:
            version: The version, with its weights in memory.
            compiled: Whether torch compiles the forward pass.
            count: Receives the candidates of each scored list, by id table and `own` or `cold` row.

        Raises:
            ArtifactError: If the weights are not those of its model.
        """
        self._version = version
        self._compiled = compiled
        self._count = count
        self._slots = SlotCache(version.id_maps)
        self._forward = _compiled(version) if compiled else _eager(version)

    def score(self, example: Examples) -> Sequence[float]:
        """Return the logits of the example's candidates."""
        config = self._version.config
        batch = collate(
            example,
            self._slots,
            width=config.vector_width,
            history=config.history,
            schema=config.feature_schema,
            fixed=self._compiled,
        )
        self._count(count_candidates(batch))
        scores: list[float] = self._run(batch)[0, : len(example.item_ids)].tolist()
        return scores

    def check_identity(self, lineage: str, number: int) -> None:
        """Compare the manifest with what the registry says.

        Raises:
            ArtifactError: If the artifact is a version of another lineage, or another version.
        """
        stated = self._version.manifest
        if (stated.lineage, stated.version) != (lineage, number):
            raise ArtifactError(
                f"{self._version.sha256} is version {stated.version} of lineage {stated.lineage},"
                f" the registry says version {number} of {lineage}"
            )

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
            return self._forward(batch)


class Loader:
    """Scorers of versions; a delta is put into a copy of a version that is still in use, where one fits.

    Args:
        folder: Folder of the versions.
        keys: Keys of the signatures of versions.
        compiled: Whether torch compiles the forward pass.
        count: Receives the candidates of each scored list, by id table and `own` or `cold` row.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keys: VersionKeys = NO_KEYS,
        compiled: bool = False,
        count: Count = lambda _: None,
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._compiled = compiled
        self._count = count
        # Weak references: a version leaves the memory with the last scorer that uses it.
        self._in_use: WeakValueDictionary[str, artifact.LoadedVersion] = WeakValueDictionary()
        # Lineages load in threads of their own.
        self._lock = threading.Lock()

    def load(self, sha256: str) -> TorchScorer:
        """Return the scorer of a version, verified and warm.

        Raises:
            ArtifactError: If the version is incomplete, damaged or not signed, or its golden scores differ here.
        """
        with self._lock:
            held = list(self._in_use.values())
        version = artifact.load(self._folder, sha256, held, self._keys)
        scorer = TorchScorer(version, compiled=self._compiled, count=self._count)
        scorer.verify()
        scorer.warm_up()
        with self._lock:
            self._in_use[sha256] = version
        return scorer


def use_one_thread() -> None:
    """Limit torch to one thread, because the inference thread scores one list at a time beside the event loop."""
    torch.set_num_threads(1)


def _eager(version: artifact.LoadedVersion) -> Forward:
    try:
        module = MODELS[version.model_name].load(version.config, version.params)
    except RuntimeError as error:
        raise ArtifactError(f"{version.sha256}: the weights are not those of its model: {error}") from error

    def logits(batch: Batch) -> Tensor:
        return torch.as_tensor(module(to_torch(batch)).logit)

    return logits


def _compiled(version: artifact.LoadedVersion) -> Forward:
    graph, weights = _graph(version.model_name, version.config), dict(version.params)
    return lambda batch: graph(weights, to_torch(batch))


@lru_cache(maxsize=8)
def _graph(model_name: str, config: ModelConfig) -> Callable[[dict[str, Tensor], TensorBatch], Tensor]:
    """Return the compiled graph that all versions of one architecture share: weights are its arguments."""
    module = MODELS[model_name].build(config)
    return torch.compile(lambda weights, batch: call(module, weights, batch).logit)
