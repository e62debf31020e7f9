"""Scores of a version by ONNX Runtime, from the graph in its files and its weights; imports no torch.

Source: ONNX Runtime, "Python API"; docs/training.md, "Graphs".
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.features.collate import MODEL_INPUTS, Batch

GRAPH_TOLERANCE: Final = 1e-5
"""Difference between scores of a graph and of torch, as a root mean square, in units of that of the scores or of 1."""

_OUTPUT: Final = "logit"


class StoredGraph(msgspec.Struct, frozen=True, array_like=True):
    """A graph as it stands in a version.

    Attributes:
        dense: Names of the dense weights that the logits need, whose values are not in the model; none if the model
            holds int8 weights of its own.
        model: The serialized ONNX model.
    """

    dense: list[str]
    model: bytes


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
        values = {name: ort.OrtValue.ortvalue_from_numpy(_contiguous(own)) for name, own in weights.items()}
        options = ort.SessionOptions()
        # The arena takes more than lists of 30 need, and saves no time that can be measured.
        options.enable_cpu_mem_arena = False
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            stored = decode(graph)
            options.add_external_initializers(stored.dense, [values[name] for name in stored.dense])
            self._session = ort.InferenceSession(stored.model, options, providers=["CPUExecutionProvider"])
            names = [each.name for each in self._session.get_inputs()]
            self._tables = {name: values[name] for name in names if name not in MODEL_INPUTS}
        except Exception as error:
            raise ArtifactError(f"the weights are not those of its graph: {error!r:.200}") from error
        self._fields = [name for name in names if name in MODEL_INPUTS]

    def scores(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits [B,n] of a batch, 0 at padding; its lists are scored one by one.

        Raises:
            RuntimeError: If the runtime cannot score it.
        """
        mask = batch.cand_mask
        if len(mask) == 1 and mask.all():
            return self._of_list(batch)
        found = np.zeros(mask.shape, np.float32)
        for number, n in enumerate(mask.sum(axis=1).tolist()):
            if n:
                found[number, :n] = self._of_list(_one_list(batch, number, n))[0]
        return found

    def _of_list(self, batch: Batch) -> NDArray[np.float32]:
        fields = {name: ort.OrtValue.ortvalue_from_numpy(_contiguous(getattr(batch, name))) for name in self._fields}
        try:
            (logit,) = self._session.run_with_ort_values([_OUTPUT], {**fields, **self._tables})
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime: {error}") from error
        found: NDArray[np.float32] = logit.numpy()
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


def _contiguous(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(array)
