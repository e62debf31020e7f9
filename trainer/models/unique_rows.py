"""The rows of the id tables that a batch touches, gathered into small tables.

A model never sees a whole table in training: the batch's slots are renumbered, and only the gathered rows have
gradients and are written back. Scores by the small tables equal those by the whole ones.

Source: docs/training.md.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.features import TABLES, Batch
from trainer.features.distinct import distinct


class GatheredRows(NamedTuple):
    """A batch whose slots are numbered from 0, and the slots of these numbers by table.

    Attributes:
        touched: Slots of the first numbers, whose rows the batch trains. Number 0 is slot 0, the padding.
        fixed: Slots of the numbers behind them: rows that lists only read. A slot may be in both.
    """

    batch: Batch
    touched: dict[str, NDArray[np.int64]]
    fixed: dict[str, NDArray[np.int64]]


def gather_unique_rows(batch: Batch, replayed: NDArray[np.bool_] | None = None) -> GatheredRows:
    """Return the batch with its slots renumbered from 0, and the slots of the new numbers by table.

    Args:
        batch: B lists.
        replayed: [B] lists that read rows of their own, so that no gradient of theirs reaches a table; None for none.
    """
    cand, hist, page = batch.cand_id.copy(), batch.hist_id.copy(), batch.page_id.copy()
    category, path = batch.query_category, batch.query_path
    touched: dict[str, NDArray[np.int64]] = {}
    fixed: dict[str, NDArray[np.int64]] = {}
    for kind, table in enumerate(TABLES):
        parts = [cand[..., kind], hist[..., kind], page[..., kind]]
        if table == "category":
            parts += [category, path]
        values = np.concatenate([np.zeros(1, np.int64), *(part.ravel() for part in parts)])
        if replayed is None or not replayed.any():
            touched[table], numbers = distinct(values)
            fixed[table] = values[:0]
        else:
            reads = np.concatenate([[False], *(np.repeat(replayed, part[0].size) for part in parts)]) & (values != 0)
            numbers = np.empty_like(values)
            touched[table], numbers[~reads] = distinct(values[~reads])
            fixed[table], of_fixed = distinct(values[reads])
            numbers[reads] = len(touched[table]) + of_fixed
        split = np.split(numbers[1:], np.cumsum([part.size for part in parts])[:-1])
        for slots, part in zip((cand, hist, page), split, strict=False):
            slots[..., kind] = part.reshape(slots.shape[:-1])
        if table == "category":
            category, path = split[3], split[4].reshape(path.shape)
    renumbered = batch._replace(cand_id=cand, hist_id=hist, page_id=page, query_category=category, query_path=path)
    return GatheredRows(renumbered, touched, fixed)
