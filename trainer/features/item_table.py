"""The item table: what examples read of the catalogue, in columns, so that a batch of lists is one gather.

Source: docs/training.md.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.schemas.events import Item
from trainer.features.categories import PathIndex

MAX_ITEMS: Final = 100_000
"""Items that the table holds; beyond it starts anew with those that are asked for."""

_FIRST_ROWS: Final = 1_024


class CatalogueLike(Protocol):
    """The part of the item catalogue that examples read."""

    def get(self, item_id: str, /) -> Item | None:
        """Return the record of an item, or None."""

    def image(self, item_id: str, /) -> NDArray[np.floating] | None:
        """Return the image vector of an item, or None."""

    def text(self, item_id: str, /) -> NDArray[np.floating] | None:
        """Return the text vector of an item, or None."""


class Vectors:
    """The vectors of one modality by row; a vector of another width than the first one counts as missing."""

    def __init__(self) -> None:
        self.values = np.zeros((_FIRST_ROWS, 0), np.float16)
        self.present = np.zeros(_FIRST_ROWS, np.bool_)

    def put(self, row: int, vector: NDArray[np.floating] | None) -> None:
        """Set or drop the vector of a row."""
        if vector is not None and not self.values.shape[1]:
            self.values = np.zeros((len(self.values), vector.size), np.float16)
        self.present[row] = vector is not None and vector.size == self.values.shape[1]
        self.values[row] = vector if self.present[row] else 0

    def grow(self) -> None:
        """Make room for twice as many rows."""
        self.values = np.concatenate([self.values, np.zeros_like(self.values)])
        self.present = np.concatenate([self.present, np.zeros_like(self.present)])


class ItemTable:
    """Columns of the items that were asked for, by row; row 0 is every item that the catalogue does not hold.

    Attributes:
        paths: Numbers of category paths.
        shop, brand, leaf: Keys by row, "" = none.
        path: Number of the category path by row.
        image, text: Vectors by row.
    """

    def __init__(self, catalogue: CatalogueLike) -> None:
        self._catalogue = catalogue
        self._start()

    def _start(self) -> None:
        self.paths = PathIndex()
        self._rows: dict[str, int] = {}
        self._records: list[Item | None] = [None]
        self.shop = np.full(_FIRST_ROWS, "", dtype=object)
        self.brand = np.full(_FIRST_ROWS, "", dtype=object)
        self.leaf = np.full(_FIRST_ROWS, "", dtype=object)
        self.path = np.zeros(_FIRST_ROWS, np.int64)
        self.image = Vectors()
        self.text = Vectors()

    def trim(self) -> None:
        """Start anew if the table is full; rows that were returned before mean nothing any more."""
        if len(self._records) > MAX_ITEMS or len(self.paths) > MAX_ITEMS:
            self._start()

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each item, with the record that the catalogue holds now."""
        get, row_of, records = self._catalogue.get, self._rows.get, self._records
        found = [get(item_id) for item_id in item_ids]
        rows = [row_of(item_id, 0) for item_id in item_ids]
        for place, (record, row) in enumerate(zip(found, rows, strict=True)):
            if records[row] is not record:
                # An item may stand in several places: the first one has put its record.
                rows[place] = self._put(item_ids[place], record)
        return np.array(rows, np.int64)

    def _put(self, item_id: str, record: Item | None) -> int:
        if record is None:
            # The row stays, since others of this call may name it; no id leads to it.
            self._rows.pop(item_id, None)
            return 0
        row = self._rows.get(item_id, 0)
        if row and self._records[row] is record:
            return row
        if not row:
            row = len(self._records)
            self._records.append(None)
            if row == len(self.path):
                self._grow()
            self._rows[item_id] = row
        self._records[row] = record
        self.shop[row], self.brand[row] = record.shop_id or "", record.brand_id or ""
        self.leaf[row] = record.category_ids[-1] if record.category_ids else ""
        self.path[row] = self.paths.number(tuple(record.category_ids))
        self.image.put(row, self._catalogue.image(item_id))
        self.text.put(row, self._catalogue.text(item_id))
        return row

    def _grow(self) -> None:
        for name in ("shop", "brand", "leaf", "path"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.full_like(column, "" if column.dtype == object else 0)]))
        self.image.grow()
        self.text.grow()
