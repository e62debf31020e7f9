"""Scoring of lists by one version, in a runtime that the settings name; this module imports none of them.

Source: docs/serving.md, docs/training.md.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.features import Batch, Examples, collate
from trainer.features.id_maps import count_candidates
from trainer.features.slot_cache import SlotCache
from trainer.versions import artifact
from trainer.versions.signature import NO_KEYS, VersionKeys

Runtime = Literal["torch", "torch-compiled", "onnx"]
"""Runtime of a forward pass; the compiled one costs a compilation at the first version of an architecture."""

Forward = Callable[[Batch], NDArray[np.float32]]
Count = Callable[[Mapping[tuple[str, str], int]], None]


class Scorer(Protocol):
    """Model of one version."""

    def score(self, example: Examples) -> Sequence[float]:
        """Return one score per candidate of the example of one list, in its order; higher is better."""
        ...


class VersionScorer:
    """Forward pass of one verified version in a runtime."""

    def __init__(
        self, version: artifact.LoadedVersion, *, runtime: Runtime = "torch", count: Count = lambda _: None
    ) -> None:
        """Prepare the forward pass.

        Args:
            version: The version, with its weights in memory.
            runtime: The runtime.
            count: Receives the candidates of each scored list, by id table and `own` or `cold` row.

        Raises:
            ArtifactError: If the weights are not those of its model, or the runtime needs a graph and there is none.
        """
        self._version = version
        self._is_fixed = runtime == "torch-compiled"
        self._count = count
        self._slots = SlotCache(version.id_maps)
        self._forward = _forward(version, runtime)

    def score(self, example: Examples) -> Sequence[float]:
        """Return the logits of the example's candidates."""
        config = self._version.config
        batch = collate(
            example,
            self._slots,
            width=config.vector_width,
            history=config.history,
            schema=config.feature_schema,
            fixed=self._is_fixed,
        )
        self._count(count_candidates(batch))
        scores: list[float] = self._forward(batch)[0, : len(example.item_ids)].tolist()
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
        return artifact.check_golden(self._version, self._forward)

    def warm_up(self, num_runs: int = 3) -> None:
        """Score single golden lists, so that the first request does not pay for first calls."""
        one = Batch._make(column[:1] for column in self._version.golden)
        for _ in range(num_runs):
            self._forward(one)


class Loader:
    """Scorers of versions; a delta is put into a copy of a version that is still in use, where one fits.

    Args:
        folder: Folder of the versions.
        keys: Keys of the signatures of versions.
        runtime: Runtime of the forward passes.
        count: Receives the candidates of each scored list, by id table and `own` or `cold` row.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keys: VersionKeys = NO_KEYS,
        runtime: Runtime = "torch",
        count: Count = lambda _: None,
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._runtime = runtime
        self._count = count
        # Weak references: a version leaves the memory with the last scorer that uses it.
        self._in_use: WeakValueDictionary[str, artifact.LoadedVersion] = WeakValueDictionary()
        # Lineages load in threads of their own.
        self._lock = threading.Lock()

    def load(self, sha256: str) -> VersionScorer:
        """Return the scorer of a version, verified and warm.

        Raises:
            ArtifactError: If the version is incomplete, damaged or not signed, or its golden scores differ here.
        """
        with self._lock:
            held = list(self._in_use.values())
        version = artifact.load(self._folder, sha256, held, self._keys)
        scorer = VersionScorer(version, runtime=self._runtime, count=self._count)
        scorer.verify()
        scorer.warm_up()
        with self._lock:
            self._in_use[sha256] = version
        return scorer


def _forward(version: artifact.LoadedVersion, runtime: Runtime) -> Forward:
    # Each runtime takes memory and time to import, and a process uses one.
    if runtime == "onnx":
        from trainer.versions.graph import Graph

        if version.graph is None:
            raise ArtifactError(f"{version.sha256}: it has no graph, which serving.runtime = onnx needs")
        return Graph(version.graph, version.weights).scores
    from serving.ranking import torch_runtime

    return torch_runtime.compiled(version) if runtime == "torch-compiled" else torch_runtime.eager(version)
