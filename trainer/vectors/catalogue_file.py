"""Catalogue files: the items of a shop as CSV, JSON lines or Parquet, read row by row and checked.

| field | value |
|---|---|
| `item_id` | text of 1 to 256 characters, once in the file |
| `title` | text that is not blank |
| `attributes` | optional: an object of texts, numbers, truth values, or lists of these; in CSV its JSON |
| `image` | optional: path of a picture, relative to the folder of the file |

Source: docs/vectors.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from stream.schemas.events import ItemId
from trainer.vectors.table_file import CatalogueFileError, Columns, check_file, fault, rows

COLUMNS: Final = Columns(required=("item_id", "title"), optional=("attributes", "image"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueRow:
    """One item of a file.

    Attributes:
        place: File and line, or row of a Parquet file, for messages.
        item_id: Id of the item.
        text: Title and attributes as one text: what a text encoder reads.
        image: The picture's path; None without one.
    """

    place: str
    item_id: str
    text: str
    image: Path | None

    def fault(self, field: str, expected: str, value: object) -> CatalogueFileError:
        """Return the error that refuses a field of this row."""
        return fault(self.place, field, expected, value)


class CatalogueFile:
    """The items of one file; each iteration reads the file anew, with bounded memory.

    Attributes:
        path: The file.
        not_read: Columns of the file that are no field of an item, as far as rows were read.
    """

    def __init__(self, path: Path) -> None:
        """Describe the file; nothing is read.

        Raises:
            CatalogueFileError: If there is no such file, or its suffix is none of `SUFFIXES`.
        """
        check_file(path)
        self.path = path
        self.not_read: set[str] = set()

    def __iter__(self) -> Iterator[CatalogueRow]:
        """Yield the items in the order of the file.

        Raises:
            CatalogueFileError: If the file is damaged or a row is refused: file, line, field and value are named.
        """
        places: dict[str, str] = {}
        for place, found in rows(self.path, COLUMNS):
            self.not_read |= found.keys() - {*COLUMNS.required, *COLUMNS.optional}
            row = _row(self.path.parent, place, found)
            first = places.setdefault(row.item_id, place)
            if first is not place:
                raise fault(place, "item_id", f"an id of its own; {first} has the same", row.item_id)
            yield row


def _row(folder: Path, place: str, found: Mapping[str, object]) -> CatalogueRow:
    try:
        item_id = msgspec.convert(found["item_id"], ItemId)
    except msgspec.ValidationError as error:
        raise fault(place, "item_id", "text of 1 to 256 characters", found["item_id"]) from error
    title, image = found["title"], found.get("image")
    if not isinstance(title, str) or not title.strip():
        raise fault(place, "title", "text that is not blank", title)
    if image is not None and not isinstance(image, str):
        raise fault(place, "image", "the path of a picture", image)
    said = [title.strip(), *_attributes(place, found.get("attributes"))]
    return CatalogueRow(
        place=place, item_id=item_id, text=". ".join(said), image=folder / image if image and image.strip() else None
    )


def _attributes(place: str, value: object) -> list[str]:
    """Return `name value` for each attribute, by name: the order in which a shop writes them changes no vector."""
    if isinstance(value, str):
        if not value.strip():
            return []
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise fault(place, "attributes", f"a JSON object ({error})", value) from error
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise fault(place, "attributes", "an object", value)
    said = []
    for name, content in sorted(value.items()):
        parts = content if isinstance(content, list) else [content]
        if not all(part is None or isinstance(part, str | int | float | bool) for part in parts):
            raise fault(place, f"attributes.{name}", "text, a number, a truth value, or a list of these", content)
        words = " ".join(str(part).strip() for part in parts if part is not None)
        if words:
            said.append(f"{name} {words}")
    return said


def chunks(rows: Iterable[CatalogueRow], size: int) -> Iterator[list[CatalogueRow]]:
    """Yield the rows in lists of `size`; the last one may be shorter."""
    chunk: list[CatalogueRow] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
