"""Boxes: where the item stands in its picture, from a file that a detector or a person made.

A row has `item_id` and, in pixels from the upper left corner, `x`, `y`, `width` and `height`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from stream.schemas.events import ItemId
from trainer.vectors.table_file import Columns, check_file, fault, rows

_NUMBERS: Final = ("x", "y", "width", "height")
_COLUMNS: Final = Columns(required=("item_id", *_NUMBERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle of a picture, in pixels.

    Attributes:
        place: File and line it came from, for messages.
        x, y: Its upper left corner, from that of the picture.
        width, height: Its size.
    """

    place: str
    x: int
    y: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge."""
        return self.x, self.y, self.x + self.width, self.y + self.height


def read_boxes(path: Path) -> dict[str, Box]:
    """Return the box of each item of a file that ends in .csv, .jsonl or .parquet.

    Raises:
        CatalogueFileError: If the file or one of its rows is refused: file, line, field and value are named.
    """
    check_file(path)
    boxes: dict[str, Box] = {}
    for place, found in rows(path, _COLUMNS):
        try:
            item_id = msgspec.convert(found["item_id"], ItemId)
        except msgspec.ValidationError as error:
            raise fault(place, "item_id", "text of 1 to 256 characters", found["item_id"]) from error
        numbers = {name: _pixels(place, name, found[name]) for name in _NUMBERS}
        if item_id in boxes:
            raise fault(place, "item_id", f"an id of its own; {boxes[item_id].place} has the same", item_id)
        boxes[item_id] = Box(place=place, **numbers)
    return boxes


def _pixels(place: str, name: str, value: object) -> int:
    least = 1 if name in {"width", "height"} else 0
    try:
        pixels = msgspec.convert(value, int, strict=False)
    except msgspec.ValidationError as error:
        raise fault(place, name, f"a whole number of pixels from {least} on", value) from error
    if pixels < least:
        raise fault(place, name, f"a whole number of pixels from {least} on", value)
    return pixels
