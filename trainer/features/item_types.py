"""Types of the items of a list, as models and losses read them out of the numbers of a batch.

Source: docs/training.md, "SMAR".
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.schemas.events import PRODUCT
from trainer.features.collate import Batch
from trainer.features.schema import SCHEMAS, TYPE_COLUMNS

ITEM_TYPES: Final = (PRODUCT, *(name.removeprefix("type_") for name in TYPE_COLUMNS))
"""Types that models tell apart; the last one stands for all others."""


def type_columns(schema: int) -> slice | None:
    """Return the columns of types among the numbers of a feature schema, or None if it has none.

    At most one of them is 1 for an item; a product has none.
    """
    numbers = SCHEMAS[schema].numbers
    if TYPE_COLUMNS[0] not in numbers:
        return None
    first = numbers.index(TYPE_COLUMNS[0])
    return slice(first, first + len(TYPE_COLUMNS))


def item_types(batch: Batch, schema: int) -> NDArray[np.int64]:
    """Return the place in `ITEM_TYPES` of each candidate, 0 at padding and where the schema has no types.

    Shapes: (B, n).
    """
    columns = type_columns(schema)
    if columns is None:
        return np.zeros(batch.cand_mask.shape, np.int64)
    own = np.where(batch.cand_mask[..., None], batch.cand_num[..., columns], 0)
    found: NDArray[np.int64] = (own * np.arange(1, len(ITEM_TYPES))).sum(axis=-1).astype(np.int64)
    return found


def only_type(batch: Batch, schema: int, name: str) -> Batch:
    """Return the batch with the candidates of one type alone, or of `all`; the others become padding.

    Numbers that compare an item with its list are those of the whole list.
    """
    if name == "all":
        return batch
    mask = batch.cand_mask & (item_types(batch, schema) == ITEM_TYPES.index(name))
    return batch._replace(cand_mask=mask, cand_id=np.where(mask[..., None], batch.cand_id, 0))
