"""Scores of a version by ONNX Runtime, from the graph in its files and its weights; imports no torch.

Source: ONNX Runtime, "Python API"; docs/training.md, "Graphs".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from stream.errors import ArtifactError
from trainer.features.collate import MODEL_INPUTS, Batch
from trainer.versions.onnx_session import Session, value_of
from trainer.versions.page_graph import FIRST_PASS, Pages, StoredPages

GRAPH_TOLERANCE: Final = 1e-5
"""Difference between scores of a graph and of torch, as a root mean square, in units of that of the scores or of 1."""

LOGIT: Final = "logit"
"""Output of a graph that scores the list by itself."""


class StoredGraph(msgspec.Struct, frozen=True, array_like=True):
    """A graph as it stands in a version.

    Attributes:
        dense: Names of the dense weights that the outputs need, whose values are not in the model; none if the model
            holds int8 weights of its own.
        model: The serialized ONNX model.
        pages: The evaluator of pages, of a model that chooses pages; the graph is its first pass then.
    """

    dense: list[str]
    model: bytes
    pages: StoredPages | None = None


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(StoredGraph).decode


class Graph:
    """A graph with the weights of one version, on one thread.

    The runtime reads the tables of ids where they are. It copies the dense weights, which are not needed any more then.
    """

    def __init__(self, graph: bytes, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Prepare the runtime.

        Args:
            graph: The graph of the version.
            weights: All weights by name, or of the tables of ids only the rows that batches ask for.

        Raises:
            ArtifactError: If the graph is damaged, or the weights are not those of its model.
        """
        values = {name: value_of(own) for name, own in weights.items()}
        try:
            stored = decode(graph)
            self._session = Session(stored.dense, stored.model, values)
            self._pages = None if stored.pages is None else Pages(stored.pages, values)
        except Exception as error:
            raise ArtifactError(f"the weights are not those of its graph: {error!r:.200}") from error
        if unknown := sorted(set(self._session.inputs).difference(MODEL_INPUTS)):
            raise ArtifactError(f"its graph has inputs that no batch has: {', '.join(unknown):.200}")

    def scores(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits [B,n] of a batch, 0 at padding; its lists are scored one by one.

        Raises:
            RuntimeError: If the runtime cannot score it.
        """
        return _of_each_list(batch, self._scores)

    def golden(self, batch: Batch) -> NDArray[np.float32]:
        """Return the scores [B,n] that a golden set has, as `trainer.models.golden_scores`.

        Raises:
            RuntimeError: If the runtime cannot score it.
        """
        return _of_each_list(batch, self._golden)

    def _scores(self, batch: Batch) -> NDArray[np.float32]:
        if self._pages is not None:
            return self._pages.scores(self._run(FIRST_PASS, batch))
        found: NDArray[np.float32] = self._run([LOGIT], batch)[LOGIT].numpy()
        return found

    def _golden(self, batch: Batch) -> NDArray[np.float32]:
        if self._pages is None:
            return self._scores(batch)
        return self._pages.golden(self._run(FIRST_PASS, batch), batch)

    def _run(self, outputs: Sequence[str], batch: Batch) -> dict[str, OrtValue]:
        fields = {name: value_of(getattr(batch, name)) for name in self._session.inputs}
        return dict(zip(outputs, self._session.run(outputs, fields), strict=True))


def _of_each_list(batch: Batch, score: Callable[[Batch], NDArray[np.float32]]) -> NDArray[np.float32]:
    mask = batch.cand_mask
    if len(mask) == 1 and mask.all():
        return _of_its_form(score(batch), mask)
    found = np.zeros(mask.shape, np.float32)
    for number, n in enumerate(mask.sum(axis=1).tolist()):
        if n:
            found[number, :n] = _of_its_form(score(_one_list(batch, number, n)), mask[number : number + 1, :n])[0]
    return found


def _of_its_form(found: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the scores of one list, which a graph of another form would give in another one."""
    if found.shape != mask.shape or found.dtype != np.float32:
        raise RuntimeError(f"the graph gives {found.dtype} {list(found.shape)} for {list(mask.shape)} candidates")
    return found


def _one_list(batch: Batch, number: int, n: int) -> Batch:
    """Return one list of a batch without the padding of its candidates, which stands behind them."""
    own = {name: column[number : number + 1] for name, column in batch._asdict().items()}
    return Batch(**{name: column[:, :n] if name.startswith("cand_") else column for name, column in own.items()})


def check(found: NDArray[np.float32], expected: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Compare scores of a graph with those of torch, and return the largest difference.

    Both runtimes round, each about as much, so single scores may differ by a few times the tolerance.

    Raises:
        ArtifactError: If the root mean square of the differences exceeds `GRAPH_TOLERANCE`.
    """
    difference = np.abs(found - expected)[mask].astype(np.float64)
    scale = max(1.0, float(np.sqrt(np.square(expected[mask].astype(np.float64)).mean())))
    distance = float(np.sqrt(np.square(difference).mean()))
    if not distance <= GRAPH_TOLERANCE * scale:
        raise ArtifactError(
            f"scores of the graph differ by {distance:.1e} from those of torch, allowed {GRAPH_TOLERANCE * scale:.1e}"
        )
    return float(difference.max())
