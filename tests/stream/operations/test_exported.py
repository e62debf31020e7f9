from collections.abc import Callable
from pathlib import Path

import msgspec
import polars as pl
import pytest

from stream.errors import ConfigError
from stream.operations.export import session_row
from stream.operations.exported import read_sessions
from stream.schemas.session import AssignedArm, Evidence, Line, Session
from tests.trainer.lists import catalogue, served

KNOWN = catalogue()


def sessions() -> list[Session]:
    full = served(1, KNOWN, n=5, depth=4).session([2, 0, 1, 4, 3], orders=[1], clicks=[1, 3], gross_minor=700)
    full.assignment = [AssignedArm("ranker", "e", 1, "control", 7)]
    full.events = [Evidence("c1", "click", 1, 5, 6, "clicks", 0, 9, "query_id")]
    full.lines = [Line("t", "1", "", "purchase", 1, 1, 700, "EUR", 5)]
    full.src = (3, 12)
    full.item_type = ["product", "sponsored", "product", "video", "product"]
    full.source, full.latency_us, full.list_currency, full.currency = "serving", 900, "XXX", "EUR"
    bare = served(2, KNOWN, n=3, depth=0).session([0, 1, 2])
    bare.feature_schema = bare.item_f16 = bare.context_f16 = b""
    return [full, bare]


def as_jsonl(rows: list[dict[str, object]], path: Path) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def as_parquet(rows: list[dict[str, object]], path: Path) -> Path:
    path = path.with_suffix(".parquet")
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    return path


Write = Callable[[list[dict[str, object]], Path], Path]
both = pytest.mark.parametrize("write", [as_jsonl, as_parquet])


@both
def test_exported_sessions_come_back_equal(write: Write, tmp_path: Path) -> None:
    path = write([session_row(each) for each in sessions()], tmp_path / "sessions")
    assert list(read_sessions(path)) == sessions()


@both
def test_sessions_without_features_alone_come_back_equal(write: Write, tmp_path: Path) -> None:
    path = write([session_row(each) for each in sessions()[1:]], tmp_path / "sessions")
    assert list(read_sessions(path)) == sessions()[1:]


@both
def test_a_row_of_another_form_is_refused_with_its_number(write: Write, tmp_path: Path) -> None:
    path = write([{"a": 1}], tmp_path / "other")
    with pytest.raises(ConfigError, match="row 1 is no exported session"):
        list(read_sessions(path))


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.parquet does not exist"):
        list(read_sessions(tmp_path / "none.parquet"))
    with pytest.raises(ConfigError, match="expected a file of `shelfwise stream export sessions`"):
        list(read_sessions(tmp_path / "log.csv"))
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match="no Parquet file"):
        list(read_sessions(tmp_path / "bad.parquet"))
    (tmp_path / "bad.jsonl").write_text('{"query_id": \n')
    with pytest.raises(ConfigError, match="line 1 is no JSON object"):
        list(read_sessions(tmp_path / "bad.jsonl"))
