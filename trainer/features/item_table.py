"""The item table: what examples read of the catalogue, in columns, so that a batch of lists is one gather.

Source: docs/training.md.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.schemas.events import Item
from trainer.features.categories import PathIndex
from trainer.features.hash_index import hash_pairs
from trainer.features.schema import ITEM_COLUMNS, item_f16, price_column

MAX_ITEMS: Final = 100_000
"""Items that the table holds; beyond it starts anew with those that are asked for."""

_FIRST_ROWS: Final = 1_024
_PRICE: Final = ITEM_COLUMNS.index("price")


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
    """Columns of the items that were asked for, by row, those included that the catalogue does not hold.

    Attributes:
        paths: Numbers of category paths.
        entity: Hashes of item, shop, brand and category, (rows, 4, 2); 0 = none.
        leaf: Category by row, "" = none.
        path: Number of the category path by row.
        columns: `item_f16` of each item at the catalogue's price, (rows, len(ITEM_COLUMNS)).
        image, text: Vectors by row.
    """

    def __init__(self, catalogue: CatalogueLike) -> None:
        self._catalogue = catalogue
        self._start()

    def _start(self) -> None:
        self.paths = PathIndex()
        self._rows: dict[str, int] = {}
        self._records: list[Item | None] = []
        self.entity = np.zeros((_FIRST_ROWS, 4, 2), np.uint64)
        self.leaf: list[str] = []
        self.path = np.zeros(_FIRST_ROWS, np.int64)
        self.columns = np.zeros((_FIRST_ROWS, len(ITEM_COLUMNS)), np.float16)
        self.image = Vectors()
        self.text = Vectors()

    def trim(self) -> None:
        """Start anew if the table is full; rows that were returned before mean nothing any more."""
        if len(self._records) > MAX_ITEMS or len(self.paths) > MAX_ITEMS:
            self._start()

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each item, one for each id, with the record that the catalogue holds now."""
        get, known, records = self._catalogue.get, self._rows, self._records
        for item_id in dict.fromkeys(item_ids):
            record, row = get(item_id), known.get(item_id, -1)
            if row < 0 or records[row] is not record:
                self._put(item_id, row, record)
        return np.fromiter(map(known.__getitem__, item_ids), np.int64, len(item_ids))

    def item_f16(self, item_ids: Sequence[str], price_minor: Sequence[int]) -> NDArray[np.float16]:
        """Return what `trainer.features.schema.item_f16` returns for the catalogue's records, one for each id.

        Args:
            item_ids: The candidates.
            price_minor: Their prices as shown.

        Shapes: (n, len(ITEM_COLUMNS)).

        Raises:
            ValueError: If there is not one price for each candidate.
        """
        if len(price_minor) != len(item_ids):
            raise ValueError(f"{len(price_minor)} prices of {len(item_ids)} items")
        # The look-up may replace the arrays by larger ones.
        rows = self.rows(item_ids)
        columns = self.columns[rows]
        columns[:, _PRICE] = price_column(np.array(price_minor, np.float64))
        return columns

    def _put(self, item_id: str, row: int, record: Item | None) -> None:
        """Set the columns of an item; a row below 0 asks for a new one."""
        if row < 0:
            row = self._rows[item_id] = len(self._records)
            self._records.append(None)
            self.leaf.append("")
            if row == len(self.path):
                self._grow()
        self._records[row] = record
        categories = () if record is None else tuple(record.category_ids)
        self.leaf[row] = categories[-1] if categories else ""
        self.path[row] = self.paths.number(categories)
        shop, brand = ("", "") if record is None else (record.shop_id or "", record.brand_id or "")
        self.entity[row] = hash_pairs((item_id, shop, brand, self.leaf[row]))
        self.columns[row] = item_f16([record])[0]
        self.image.put(row, None if record is None else self._catalogue.image(item_id))
        self.text.put(row, None if record is None else self._catalogue.text(item_id))

    def _grow(self) -> None:
        self.entity = np.concatenate([self.entity, np.zeros_like(self.entity)])
        self.path = np.concatenate([self.path, np.zeros_like(self.path)])
        self.columns = np.concatenate([self.columns, np.zeros_like(self.columns)])
        self.image.grow()
        self.text.grow()
