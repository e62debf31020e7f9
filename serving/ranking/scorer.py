"""Scoring of lists by one version, in a runtime that the settings name; this module imports none of them.

Source: docs/serving.md, docs/training.md.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from serving.ranking import released_memory
from serving.settings import ServingSettings
from stream.errors import ArtifactError
from stream.replicas.catalogue import Catalogue
from trainer.features import Batch, Examples, collate
from trainer.features.collate import padded
from trainer.features.id_maps import count_candidates
from trainer.features.slot_cache import SlotCache
from trainer.versions import artifact, int8
from trainer.versions.signature import NO_KEYS, VersionKeys

Runtime = Literal["torch-eager", "torch-compiled", "onnx", "onnx-int8"]
"""Runtime of a forward pass; the compiled one costs a compilation at the first version of an architecture."""
_INT8: Final = "onnx-int8"

Forward = Callable[[Batch], NDArray[np.float32]]
Count = Callable[[Mapping[tuple[str, str], int]], None]

_log = logging.getLogger(__name__)


def runtime_of(settings: ServingSettings) -> Runtime:
    """Return the runtime that settings choose."""
    if settings.runtime == "onnx":
        return _INT8 if settings.precision == "int8" else "onnx"
    return "torch-compiled" if settings.compiled else "torch-eager"


class Scorer(Protocol):
    """Model of one version."""

    @property
    def runtime(self) -> str:
        """Return the name of the runtime that scores."""
        ...

    def score(self, example: Examples) -> Sequence[float]:
        """Return one score per candidate of the example of one list, in its order; higher is better."""
        ...


class VersionScorer:
    """Forward pass of one verified version in a runtime."""

    def __init__(
        self, version: artifact.LoadedVersion, *, runtime: Runtime = "torch-eager", count: Count = lambda _: None
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
        self.runtime: Runtime = runtime
        self._count = count
        self._slots = SlotCache(version.id_maps)
        self._forward, self._golden = _passes(version, runtime)

    def score(self, example: Examples) -> Sequence[float]:
        """Return the logits of the example's candidates."""
        config = self._version.config
        batch = collate(
            example,
            self._slots,
            width=config.vector_width,
            history=config.history,
            pages=config.num_pages,
            schema=config.feature_schema,
            fixed=self.runtime == "torch-compiled",
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

    def keep_spaces(self, catalogue: Catalogue) -> None:
        """Let the catalogue of this process stay with the vector spaces that the version was trained in.

        Raises:
            ArtifactError: If another version needs other spaces, or more items have vectors of another one.
        """
        stated = self._version.manifest
        catalogue.keep_spaces(*self._version.config.spaces_read(stated.image_space, stated.text_space))

    def verify(self) -> float:
        """Score the golden set in this process and return the largest difference from the trainer's scores.

        Raises:
            ArtifactError: If the difference exceeds the tolerance, or for int8 the orders differ by more than the
                limits of the manifest, or the weights do not fit the architecture.
        """
        if self.runtime == _INT8:
            return self._verify_int8()
        return artifact.check_golden(self._version, self._golden)

    def _verify_int8(self) -> float:
        golden, expected = self._version.golden, self._version.golden_scores
        found = self._forward(golden)
        int8.agreement(found, expected, golden.cand_mask).check(
            int8.Limits.from_metrics(self._version.manifest.metrics)
        )
        return float(np.abs(found - expected)[golden.cand_mask].max())

    def warm_up(self, num_runs: int = 3) -> None:
        """Score single golden lists, so that the first request does not pay for first calls."""
        one = Batch._make(column[:1] for column in self._version.golden)
        if self.runtime == "torch-compiled":
            # Another shape than that of requests would leave a compilation to the first of them.
            one = padded(one, history=self._version.config.history)
        for _ in range(num_runs):
            self._forward(one)


class Loader:
    """Scorers of versions; a delta is put into a copy of a version that is still in use, where one fits.

    Args:
        folder: Folder of the versions.
        keys: Returns the keys of the signatures of versions.
        runtime: Runtime of the forward passes. With int8, a version whose int8 graph is missing or beyond its limits
            here is scored in full precision.
        count: Receives the candidates of each scored list, by id table and `own` or `cold` row.
        full_precision: Receives the lineage of each version that is not scored in int8 for that reason.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keys: Callable[[], VersionKeys] = lambda: NO_KEYS,
        runtime: Runtime = "torch-eager",
        count: Count = lambda _: None,
        full_precision: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._runtime = runtime
        self._count = count
        self._full_precision = full_precision
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
        version = artifact.load(self._folder, sha256, held, self._keys())
        scorer = self._verified(version)
        scorer.warm_up()
        if scorer.runtime.startswith("onnx"):
            version.drop_dense()
        # The files were read whole, and the runtime copied weights while it changed their form.
        released_memory.release()
        with self._lock:
            self._in_use[sha256] = version
        return scorer

    def _verified(self, version: artifact.LoadedVersion) -> VersionScorer:
        runtime, manifest = self._runtime, version.manifest
        if runtime == _INT8:
            try:
                return self._in_runtime(version, runtime)
            except ArtifactError as error:
                _log.warning(
                    "lineage %s: version %d is scored in full precision: %s", manifest.lineage, manifest.version, error
                )
                self._full_precision(manifest.lineage)
                runtime = "onnx"
        return self._in_runtime(version, runtime)

    def _in_runtime(self, version: artifact.LoadedVersion, runtime: Runtime) -> VersionScorer:
        scorer = VersionScorer(version, runtime=runtime, count=self._count)
        scorer.verify()
        return scorer


def _passes(version: artifact.LoadedVersion, runtime: Runtime) -> tuple[Forward, Forward]:
    """Return the forward pass of a version, and that whose scores its golden set has."""
    # Each runtime takes memory and time to import, and a process uses one.
    if runtime in {"onnx", _INT8}:
        from trainer.versions.graph import Graph

        stored = version.int8_graph if runtime == _INT8 else version.graph
        if stored is None:
            kind = "int8 graph" if runtime == _INT8 else "graph, which serving.runtime = onnx needs"
            raise ArtifactError(f"{version.sha256}: it has no {kind}")
        graph = Graph(stored, version.weights)
        return graph.scores, graph.golden
    from serving.ranking import torch_runtime

    if runtime == "torch-eager":
        forward = torch_runtime.eager(version)
        return forward, torch_runtime.golden(version, forward)
    forward = torch_runtime.compiled(version)
    return forward, torch_runtime.golden(version, _by_list(forward, version.config.history))


def _by_list(forward: Forward, history: int) -> Forward:
    """Return a pass that scores lists one by one in the shapes of requests: another shape would be compiled, too."""

    def scores(batch: Batch) -> NDArray[np.float32]:
        num_lists, most = batch.cand_mask.shape
        lists = [Batch._make(column[i : i + 1] for column in batch) for i in range(num_lists)]
        return np.concatenate([forward(padded(one, history=history))[:, :most] for one in lists])

    return scores
