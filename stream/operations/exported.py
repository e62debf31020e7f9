"""Sessions from the files that `shelfwise stream export sessions` writes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from msgspec import Struct
from msgspec.structs import replace

from stream.errors import ConfigError
from stream.schemas.events import PRODUCT
from stream.schemas.session import COLUMNS, AssignedArm, Evidence, Line, ListPart, Session

_ARRAYS: Mapping[str, type[Struct]] = {
    "assignment": AssignedArm,
    "events": Evidence,
    "lines": Line,
    "parts": ListPart,
}


def read_sessions(path: Path) -> Iterator[Session]:
    """Yield the sessions of an exported file, `.parquet` or `.jsonl`.

    Raises:
        ConfigError: If the file is missing or of another kind, or a row is no session.
    """
    if path.suffix not in {".jsonl", ".parquet"}:
        raise ConfigError(f"{path}: expected a file of `shelfwise stream export sessions`, .parquet or .jsonl")
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    for number, row in enumerate(_rows(path), start=1):
        try:
            yield _session(row)
        except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
            raise ConfigError(f"{path}: row {number} is no exported session: {error!r}") from error


def _rows(path: Path) -> Iterator[Mapping[str, object]]:
    if path.suffix == ".parquet":
        try:
            table = pl.read_parquet(path)
        except pl.exceptions.PolarsError as error:
            raise ConfigError(f"{path} is no Parquet file: {error}") from error
        yield from table.iter_rows(named=True)
        return
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                yield msgspec.json.decode(line, type=dict[str, object])
            except msgspec.MsgspecError as error:
                raise ConfigError(f"{path}: line {number} is no JSON object: {error}") from error


def _session(row: Mapping[str, object]) -> Session:
    values = dict(row)
    # An export names the position of each item.
    if values["position"] == list(range(1, len(values["position"]) + 1)):  # type: ignore[arg-type]
        values["position"] = []
    for name, column in COLUMNS.items():
        values[name] = np.asarray(values[name] or [], dtype=column.dtype).tobytes()
    for name in ("label_key", "feature_schema"):
        values[name] = bytes.fromhex(str(values[name]))
    for name, kind in _ARRAYS.items():
        # These structs are arrays on the wire; an export names their fields.
        values[name] = [[each[key] for key in kind.__struct_fields__] for each in values[name] or []]  # type: ignore[attr-defined]
    for name in ("hist_item", "hist_category"):
        values[name] = values[name] or []
    # Files of an older release have no pages.
    values["hist_pages"] = values.get("hist_pages") or []
    session = msgspec.convert(values, Session)
    # An export names the type of each item; in a session all have the default unless one differs.
    return replace(session, item_type=[]) if set(session.item_type) == {PRODUCT} else session
