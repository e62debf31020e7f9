"""Catalogue files: the items of a shop as CSV, JSON lines or Parquet, read row by row and checked.

| field | value |
|---|---|
| `item_id` | text of 1 to 256 characters, once in the file |
| `title` | text that is not blank |
| `attributes` | optional: an object of texts, numbers, truth values, or lists of these; in CSV its JSON |
| `image` | optional: path of a picture, relative to the folder of the file |

Source: docs/vectors.md.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec
import polars as pl

from stream.errors import ShelfwiseError
from stream.schemas.events import ItemId

FIELDS: Final = ("item_id", "title", "attributes", "image")
SUFFIXES: Final = (".csv", ".jsonl", ".parquet")
_REQUIRED: Final = FIELDS[:2]
_MAX_ECHO: Final = 80
_PARQUET_ROWS: Final = 65_536


class CatalogueFileError(ShelfwiseError):
    """A file of items cannot be read, or one of its rows is refused."""


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
        return _fault(self.place, field, expected, value)


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
        if path.suffix not in SUFFIXES:
            raise CatalogueFileError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
        if not path.is_file():
            raise CatalogueFileError(f"{path}: no such file")
        self.path = path
        self.not_read: set[str] = set()

    def __iter__(self) -> Iterator[CatalogueRow]:
        """Yield the items in the order of the file.

        Raises:
            CatalogueFileError: If the file is damaged or a row is refused: file, line, field and value are named.
        """
        read = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}[self.path.suffix]
        places: dict[str, str] = {}
        for place, found in read(self.path):
            self.not_read |= found.keys() - set(FIELDS)
            row = _row(self.path.parent, place, found)
            first = places.setdefault(row.item_id, place)
            if first is not place:
                raise _fault(place, "item_id", f"an id of its own; {first} has the same", row.item_id)
            yield row


def _row(folder: Path, place: str, found: Mapping[str, object]) -> CatalogueRow:
    for field in _REQUIRED:
        if found.get(field) is None:
            raise CatalogueFileError(f"{place}, field {field}: missing")
    try:
        item_id = msgspec.convert(found["item_id"], ItemId)
    except msgspec.ValidationError as error:
        raise _fault(place, "item_id", "text of 1 to 256 characters", found["item_id"]) from error
    title, image = found["title"], found.get("image")
    if not isinstance(title, str) or not title.strip():
        raise _fault(place, "title", "text that is not blank", title)
    if image is not None and not isinstance(image, str):
        raise _fault(place, "image", "the path of a picture", image)
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
        except msgspec.DecodeError as error:
            raise _fault(place, "attributes", f"a JSON object ({error})", value) from error
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise _fault(place, "attributes", "an object", value)
    said = []
    for name, content in sorted(value.items()):
        parts = content if isinstance(content, list) else [content]
        if not all(part is None or isinstance(part, str | int | float | bool) for part in parts):
            raise _fault(place, f"attributes.{name}", "text, a number, a truth value, or a list of these", content)
        words = " ".join(str(part).strip() for part in parts if part is not None)
        if words:
            said.append(f"{name} {words}")
    return said


def _csv(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(_decoded(path, file), strict=True)
        try:
            header = next(reader, None)
            missing = [field for field in _REQUIRED if field not in (header or ())]
            if header is None or missing:
                raise CatalogueFileError(
                    f"{path} line 1: no column {' and no column '.join(missing)}, got {_echo(header or [])}"
                )
            if len(set(header)) < len(header):
                raise CatalogueFileError(f"{path} line 1: a column stands twice, got {_echo(header)}")
            for cells in reader:
                place = f"{path} line {reader.line_num}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise CatalogueFileError(f"{place}: expected {len(header)} cells, got {len(cells)}: {_echo(cells)}")
                yield place, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise CatalogueFileError(f"{path} line {reader.line_num}: {error}") from error


def _decoded(path: Path, file: IO[str]) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(file, start=1):  # noqa: B007 - the error names it
            yield line
    except UnicodeDecodeError as error:
        raise CatalogueFileError(f"{path} line {number + 1} or after: no UTF-8: {error}") from error


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path} line {number}"
            try:
                yield place, msgspec.json.decode(line, type=dict[str, object])
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise CatalogueFileError(f"{place}: expected a JSON object: {error}, got {_echo(line)}") from error


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    try:
        frame = pl.scan_parquet(path)
        names = frame.collect_schema().names()
        missing = [field for field in _REQUIRED if field not in names]
        if missing:
            raise CatalogueFileError(f"{path}: no column {' and no column '.join(missing)}, got {_echo(names)}")
        unread = dict.fromkeys(name for name in names if name not in FIELDS)
        wanted = frame.select(name for name in names if name in FIELDS)
        start = 0
        while (part := wanted.slice(start, _PARQUET_ROWS).collect()).height:
            for number, row in enumerate(part.iter_rows(named=True), start=start + 1):
                yield f"{path} row {number}", {**unread, **row}
            start += part.height
    except pl.exceptions.PolarsError as error:
        raise CatalogueFileError(f"{path}: {error}") from error


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


def _fault(place: str, field: str, expected: str, value: object) -> CatalogueFileError:
    return CatalogueFileError(f"{place}, field {field}: expected {expected}, got {_echo(value)}")


def _echo(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MAX_ECHO else f"{shown[:_MAX_ECHO]}..."
