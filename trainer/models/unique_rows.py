"""The rows of the id tables that a batch touches, gathered into small tables.

A model never sees a whole table in training: the batch's slots are renumbered, and only the gathered rows have
gradients and are written back. Scores by the small tables equal those by the whole ones.

Source: docs/training.md.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.features import TABLES, Batch
from trainer.features.distinct import distinct


def gather_unique_rows(batch: Batch) -> tuple[Batch, dict[str, NDArray[np.int64]]]:
    """Return the batch with its slots renumbered from 0, and the slots of the new numbers by table.

    Guarantees: number 0 stays slot 0, the padding.
    """
    cand, hist = batch.cand_id.copy(), batch.hist_id.copy()
    category, path = batch.query_category, batch.query_path
    touched: dict[str, NDArray[np.int64]] = {}
    for kind, table in enumerate(TABLES):
        parts = [np.zeros(1, np.int64), cand[..., kind].ravel(), hist[..., kind].ravel()]
        if table == "category":
            parts += [category, path.ravel()]
        slots, numbers = distinct(np.concatenate(parts))
        touched[table] = slots
        split = np.split(numbers, np.cumsum([part.size for part in parts])[:-1])
        cand[..., kind] = split[1].reshape(cand.shape[:-1])
        hist[..., kind] = split[2].reshape(hist.shape[:-1])
        if table == "category":
            category, path = split[3], split[4].reshape(path.shape)
    return batch._replace(cand_id=cand, hist_id=hist, query_category=category, query_path=path), touched
