"""Tables of a shop as CSV, JSON lines or Parquet, read row by row with bounded memory; each row knows its place."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec
import polars as pl

from stream.errors import ShelfwiseError

SUFFIXES: Final = (".csv", ".jsonl", ".parquet")
_MAX_ECHO: Final = 80
_PARQUET_ROWS: Final = 65_536

Row = tuple[str, dict[str, object]]
"""File and line, or row of a Parquet file, for messages; and the row by column."""


class CatalogueFileError(ShelfwiseError):
    """A file of a shop cannot be read, or one of its rows is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of a table.

    Attributes:
        required: Those that a file must have.
        optional: Further ones that are read.
    """

    required: Sequence[str]
    optional: Sequence[str] = ()


def check_file(path: Path) -> None:
    """Refuse a file that is not there or has another suffix.

    Raises:
        CatalogueFileError: If there is no such file, or its suffix is none of `SUFFIXES`.
    """
    if path.suffix not in SUFFIXES:
        raise CatalogueFileError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise CatalogueFileError(f"{path}: no such file")


def rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a file in their order. Of other columns than the given ones Parquet yields no values.

    Raises:
        CatalogueFileError: If the file is damaged, lacks a required column, or a row of it lacks a required field.
    """
    read = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}[path.suffix]
    for place, found in read(path, columns):
        for field in columns.required:
            if found.get(field) is None:
                raise CatalogueFileError(f"{place}, field {field}: missing")
        yield place, found


def fault(place: str, field: str, expected: str, value: object) -> CatalogueFileError:
    """Return the error that refuses a field of a row."""
    return CatalogueFileError(f"{place}, field {field}: expected {expected}, got {_echo(value)}")


def _csv(path: Path, columns: Columns) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(_decoded(path, file), strict=True)
        try:
            header = next(reader, None)
            missing = [field for field in columns.required if field not in (header or ())]
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
    try:
        yield from file
    except UnicodeDecodeError as error:
        # The text was decoded ahead of its lines.
        with path.open("rb") as raw:
            place, line = next(found for found in enumerate(raw, start=1) if not _is_utf8(found[1]))
        raise CatalogueFileError(f"{path} line {place}: no UTF-8, got {_echo(line)}") from error


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _json_lines(path: Path, _columns: Columns) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path} line {number}"
            try:
                yield place, msgspec.json.decode(line, type=dict[str, object])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise CatalogueFileError(f"{place}: expected a JSON object: {error}, got {_echo(line)}") from error


def _parquet(path: Path, columns: Columns) -> Iterator[Row]:
    try:
        frame = pl.scan_parquet(path)
        names = frame.collect_schema().names()
        missing = [field for field in columns.required if field not in names]
        if missing:
            raise CatalogueFileError(f"{path}: no column {' and no column '.join(missing)}, got {_echo(names)}")
        wanted = {*columns.required, *columns.optional}
        unread = dict.fromkeys(name for name in names if name not in wanted)
        frame = frame.select(name for name in names if name in wanted)
        start = 0
        while (part := frame.slice(start, _PARQUET_ROWS).collect()).height:
            for number, row in enumerate(part.iter_rows(named=True), start=start + 1):
                yield f"{path} row {number}", {**unread, **row}
            start += part.height
    except pl.exceptions.PolarsError as error:
        raise CatalogueFileError(f"{path}: {error}") from error


def _echo(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MAX_ECHO else f"{shown[:_MAX_ECHO]}..."
