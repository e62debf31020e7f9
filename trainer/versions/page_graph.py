"""Scores of a version that chooses pages: its first pass, the search, and its evaluator, by ONNX Runtime.

Source: docs/training.md, "Graphs".
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from trainer.features.collate import Batch
from trainer.versions.onnx_session import Session, Values
from trainer.versions.page_search import PageSearch, SearchSizes, scores_of_page

READ: Final = ("fields", "vector", "context", "pages", "is_page")
"""Inputs of the evaluator beside the orders, as `trainer.models.pier.Context` describes them."""
FIRST_PASS: Final = ("scores", *READ)
"""Outputs of the first pass. None is called `logit`, so a release that knows no pages refuses the graph."""
ORDERS: Final = "orders"
LOGITS: Final = "logits"


class StoredPages(msgspec.Struct, frozen=True, array_like=True):
    """The evaluator of pages as it stands in a version, beside the graph of the first pass.

    Attributes:
        dense: Names of the dense weights that it needs.
        model: The serialized ONNX model.
        sizes: Sizes of the search.
        planes: [v,bits] hyperplanes of the hash, float32, little-endian.
    """

    dense: list[str]
    model: bytes
    sizes: SearchSizes
    planes: bytes


class Pages:
    """The search and the evaluator of one version."""

    def __init__(self, stored: StoredPages, weights: Values) -> None:
        """Prepare the runtime.

        Args:
            stored: The evaluator of the version.
            weights: The weights of the version by name.

        Raises:
            Exception: If the evaluator is damaged, or the weights are not its own.
        """
        self._session = Session(stored.dense, stored.model, weights)
        width = self._session.width_of("vector")
        self._search = PageSearch(stored.sizes, np.frombuffer(stored.planes, "<f4").reshape(width, -1))
        self._places = stored.sizes.places

    def scores(self, known: Mapping[str, ort.OrtValue]) -> NDArray[np.float32]:
        """Return the scores [1,n] that sort a list into the page that the evaluator prefers.

        Args:
            known: The outputs `FIRST_PASS` of the list.
        """
        scores = known["scores"].numpy()[0]
        proposal = self._search.propose(scores, *(known[name].numpy()[0] for name in ("vector", "pages", "is_page")))
        return scores_of_page(scores, proposal, self._logits(known, proposal.pages))[None]

    def golden(self, known: Mapping[str, ort.OrtValue], batch: Batch) -> NDArray[np.float32]:
        """Return scores [1,n] that do not jump between orders: the first pass, and the incoming page's logits added.

        Args:
            known: The outputs `FIRST_PASS` of the list.
            batch: The list.
        """
        found: NDArray[np.float32] = known["scores"].numpy().copy()
        incoming = np.argsort(batch.cand_rank[0], kind="stable")[None, : self._places]
        found[0, incoming[0]] += self._logits(known, incoming)[0]
        return found

    def _logits(self, known: Mapping[str, ort.OrtValue], pages: NDArray[np.int64]) -> NDArray[np.float32]:
        orders = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(pages[None]))
        inputs = {name: known[name] for name in self._session.inputs if name != ORDERS}
        (logits,) = self._session.run([LOGITS], {**inputs, ORDERS: orders})
        found: NDArray[np.float32] = logits.numpy()[0]
        return found
