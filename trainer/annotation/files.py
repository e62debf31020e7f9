"""Files of candidate pages and of judgements: CSV or JSON lines, with one item a line.

Judgements come back in the columns `grade`, `annotator`, `seconds` and `event_ts` of an exported file, or in a file of
another tool with the fields of `stream.schemas.annotation.Judgement`. Other columns are ignored.

Source: docs/annotation.md; RFC 4180; OWASP, "CSV Injection".
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, fields

from stream.errors import ConfigError
from stream.files import replace_file
from stream.schemas.annotation import Annotation, Judgement, annotation_of
from stream.schemas.problems import problem

Cells = dict[str, object]
SUFFIXES = (".csv", ".jsonl")


class PageRow(Struct, kw_only=True, frozen=True):
    """One item of a candidate page, as annotators and their tools read it; `grade` and what follows is for them.

    Attributes:
        query: Text of the query; empty if it is unknown.
        title: Title of the item; empty if the catalogue has none.
        price: Price as shown, with its currency.
        score: Score by which the item was chosen.
        num_items: Different items of the whole list.
        session_partition: Partition of the record of `sessions` that holds the list; None if it is an impression.
        session_offset: Offset of that record.
    """

    page: str
    budget: str
    query_id: str
    query: str = ""
    category: str = ""
    item_id: str
    type: str
    title: str = ""
    price: str
    score: float
    num_items: int
    session_partition: int | None = None
    session_offset: int | None = None
    grade: int | None = None
    annotator: str = ""
    seconds: float | None = None
    event_ts: int | None = None


_COLUMNS = tuple(each.name for each in fields(PageRow))
_NEEDED = tuple(each.name for each in fields(Judgement) if each.required)
_KNOWN = frozenset(each.name for each in fields(Annotation))
_DELIMITERS = ",;\t"
# A spreadsheet reads a cell that begins so as a formula. Ids stay as they are, because they come back.
_FREE_TEXT = ("query", "category", "title")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(slots=True, kw_only=True)
class Judged:
    """The content of a file of judgements.

    Attributes:
        annotations: The judgements by `event_id`, in the order of the file, each once.
        line: Line number of each judgement, likewise.
        records: `event_id` of those that are records of the topic, perhaps of another broker.
        num_open: Lines without a grade: items that were not judged.
        faults: Line number and what is wrong there, with the field and its value.
    """

    annotations: dict[str, Annotation] = field(default_factory=dict)
    line: dict[str, int] = field(default_factory=dict)
    records: set[str] = field(default_factory=set)
    num_open: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)


def check_new(path: Path) -> None:
    """Refuse a file that exists, as it may hold judgements, and one that is neither CSV nor JSON lines.

    Raises:
        ConfigError: If it exists, or its name ends otherwise.
    """
    _check_suffix(path)
    if path.exists():
        raise ConfigError(f"{path} exists, and may hold judgements: name another file")


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: expected a file that ends in {' or '.join(SUFFIXES)}")


def write_pages(path: Path, rows: Sequence[PageRow]) -> None:
    """Write candidate pages as CSV or JSON lines, by the suffix of the file, whole or not at all.

    Raises:
        ConfigError: If the file exists, as it may hold judgements, or its suffix is another one.
        OSError: If it cannot be written.
    """
    check_new(path)
    if path.suffix == ".jsonl":
        replace_file(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row)
        for name in _FREE_TEXT:
            if cells[name].startswith(_FORMULA):
                cells[name] = f"'{cells[name]}"
        writer.writerow(cells)
    # With a byte order mark, Excel reads UTF-8.
    replace_file(path, text.getvalue().encode("utf-8-sig"))


def read_queries(path: Path) -> list[str]:
    """Return the query texts of a file, one a line.

    Raises:
        ConfigError: If the file is missing or no UTF-8.
    """
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def read_pages(path: Path) -> list[PageRow]:
    """Return the rows of exported pages.

    Raises:
        ConfigError: If the file is missing or a line is no row of a page; the message names line, field and value.
    """
    rows = []
    for number, cells in _lines(path):
        try:
            rows.append(msgspec.convert({k: v for k, v in cells.items() if v is not None}, PageRow, strict=False))
        except msgspec.ValidationError as error:
            raise ConfigError(f"{path}: line {number}: {_said(error, cells)}") from error
    return rows


def read_judgements(path: Path, annotator: str | None, now_ms: int) -> Judged:
    """Read the judgements of a file; a line that is wrong is a fault, and the others are read.

    A line with an `event_id` is a record of `shelfwise stream export annotations`, and keeps its id.

    Args:
        path: The file.
        annotator: The annotator of lines that name none.
        now_ms: Time of judgements that name none, epoch milliseconds.

    Raises:
        ConfigError: If the file is missing, of another kind, or has not the columns.
    """
    judged = Judged()
    lines: dict[tuple[str, str, str, str], int] = {}
    for number, cells in _lines(path):
        values = {name: value for name, value in cells.items() if name in _KNOWN and value is not None}
        if annotator is not None:
            values.setdefault("annotator", annotator)
        if "event_id" not in values and isinstance(name := values.get("annotator"), str):
            # One person with a space behind the name would count as two.
            values["annotator"] = name.strip()
        if "grade" not in values:
            judged.num_open += 1
            continue
        if "annotator" not in values:
            judged.faults.append((number, "annotator: empty; fill in the column, or name the annotator of all lines"))
            continue
        try:
            found = _annotation(values, now_ms)
        except msgspec.ValidationError as error:
            judged.faults.append((number, _said(error, values)))
            continue
        if found.event_id in judged.annotations:
            continue
        before = lines.setdefault(found.identity, number)
        if before != number and "event_ts" not in values:
            said = f"item_id: '{found.item_id}' of query '{found.query_id}' is judged otherwise on line {before}"
            judged.faults.append((number, f"{said}; which one is later? State event_ts"))
            continue
        judged.annotations[found.event_id] = found
        judged.line[found.event_id] = number
        if "event_id" in values:
            judged.records.add(found.event_id)
    return judged


def _annotation(values: Cells, now_ms: int) -> Annotation:
    if "event_id" in values:
        return msgspec.convert(values, Annotation, strict=False)
    return annotation_of(msgspec.convert(values, Judgement, strict=False), now_ms)


def _said(error: msgspec.ValidationError, values: Cells) -> str:
    return str(problem(str(error), msgspec.json.encode(values)))


def _lines(path: Path) -> Iterator[tuple[int, Cells]]:
    """Yield line number and cells; an empty cell is None."""
    _check_suffix(path)
    text = _text(path)
    for number, cells in (_of_csv if path.suffix == ".csv" else _of_json)(path, text):
        yield (
            number,
            {name: None if isinstance(value, str) and not value.strip() else value for name, value in cells.items()},
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is no UTF-8; save the file as UTF-8") from error


def _of_json(path: Path, text: str) -> Iterator[tuple[int, Cells]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, msgspec.json.decode(line, type=Cells)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ConfigError(f"{path}: line {number} is no JSON object: {error}") from error


def _of_csv(path: Path, text: str) -> Iterator[tuple[int, Cells]]:
    header = text.partition("\n")[0]
    # Spreadsheets of some countries separate by semicolons.
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        missing = [name for name in _NEEDED if name not in (reader.fieldnames or ()) and name != "annotator"]
        if missing:
            raise ConfigError(f"{path}: line 1: no column {', '.join(missing)}")
        doubled = sorted(name for name, num in Counter(reader.fieldnames or ()).items() if num > 1 and name in _KNOWN)
        if doubled:
            raise ConfigError(f"{path}: line 1: column {', '.join(doubled)} stands twice")
        for cells in reader:
            if None in cells:
                raise ConfigError(f"{path}: line {reader.line_num}: more cells than columns")
            yield reader.line_num, cells
    except csv.Error as error:
        # The reader's number is that of the line before.
        raise ConfigError(f"{path}: line {reader.line_num + 1}: {error}") from error
