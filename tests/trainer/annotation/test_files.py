"""Files of pages and judgements: every wrong line is named by number, field and value."""

import csv
import json
from dataclasses import replace as replace_field
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from stream.errors import ConfigError
from stream.schemas.annotation import encode
from tests.stream.replicas.test_annotations import FIRST, LATER
from tests.stream.schemas.test_annotation import JUDGED, MADE
from tests.trainer.annotation.test_scored_lists import LIST
from trainer.annotation.files import read_judgements, read_pages, read_queries, write_pages
from trainer.annotation.pages import rows_of

ROWS = rows_of(
    replace_field(LIST, session_at=(2, 9)), 1.0, "p100", 'red "shoes", big', {"i0": "=HYPERLINK(1)", "i1": "größe"}
)
HEADER = "query_id,item_id,grade,annotator,seconds,page,budget,num_items,event_ts"
GOOD = "q-1,i-1,3,ann,2.5,p-1,p30,24,"


def written(tmp_path: Path, *lines: str, name: str = "judged.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_exported_file_comes_back_with_the_grades_that_were_filled_in(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pages{suffix}"
    write_pages(path, ROWS)
    assert read_judgements(path, None, 7).num_open == 3
    grades = {"i0": 4, "i2": 0}
    if suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            cells = list(csv.DictReader(file))
        titles = {row["item_id"]: row["title"] for row in cells}
        assert titles == {"i0": "'=HYPERLINK(1)", "i1": "größe", "i2": ""}
        for row in cells:
            row |= {"grade": str(grades.get(row["item_id"], "")), "seconds": "1.5"}
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(cells[0]))
            writer.writeheader()
            writer.writerows(cells)
    else:
        rows = [json.loads(line) | {"seconds": 1.5} for line in path.read_text().splitlines()]
        assert {row["title"] for row in rows} == {"=HYPERLINK(1)", "größe", ""}
        path.write_text("".join(json.dumps(r | {"grade": grades.get(r["item_id"])}) + "\n" for r in rows))
    judged = read_judgements(path, "ann", 7)
    assert (judged.faults, judged.num_open) == ([], 1)
    found = {each.item_id: each for each in judged.annotations.values()}
    assert {item_id: each.grade for item_id, each in found.items()} == grades
    assert {(e.query_id, e.page, e.budget, e.num_items, e.annotator, e.event_ts) for e in found.values()} == {
        ("q-1", ROWS[0].page, "p100", 3, "ann", 7)
    }
    assert {each.session_at for each in found.values()} == {(2, 9)}


@pytest.mark.parametrize("header", ['"query_id', 'query_id"x",y', '"query_id"x,y'])
def test_a_header_with_open_quotes_is_named_by_its_line(tmp_path: Path, header: str) -> None:
    path = written(tmp_path, header, GOOD)
    with pytest.raises(ConfigError, match=r"judged\.csv: line 1: "):
        read_judgements(path, None, 7)


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER, GOOD)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"judged\.csv exists, and may hold judgements"):
        write_pages(path, ROWS)
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.csv or \.jsonl"):
        write_pages(tmp_path / "pages.xlsx", ROWS)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (GOOD.replace(",3,", ",12,"), 'grade: Expected `int` <= 9, got "12"'),
        (GOOD.replace(",3,", ",good,"), 'grade: Expected `int`, got `str`, got "good"'),
        (GOOD.replace("2.5", '"2,5"'), 'seconds: Expected `float | null`, got `str`, got "2,5"'),
        (GOOD.replace("2.5", "-1"), 'seconds: Expected `float` >= 0.0, got "-1"'),
        (GOOD.replace(",24,", ",0,"), 'num_items: Expected `int` >= 1, got "0"'),
        (GOOD.replace("q-1", ""), "query_id: Object missing required field `query_id`"),
        (GOOD.replace("ann", ""), "annotator: empty; fill in the column, or name the annotator of all lines"),
        (f"{GOOD}soon", 'event_ts: Expected `int | null`, got `str`, got "soon"'),
        (
            GOOD.replace(",3,", ",2,"),
            "item_id: 'i-1' of query 'q-1' is judged otherwise on line 2; which one is later? State event_ts",
        ),
    ],
)
def test_a_wrong_line_is_named_and_the_others_are_read(tmp_path: Path, line: str, fault: str) -> None:
    judged = read_judgements(written(tmp_path, HEADER, GOOD, line, GOOD.replace("i-1", "i-2")), None, 7)
    assert judged.faults == [(3, fault)]
    assert [each.item_id for each in judged.annotations.values()] == ["i-1", "i-2"]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.csv", ["query_id,item_id", "q,i"], "line 1: no column grade, page, budget, num_items"),
        ("a.csv", [], "line 1: no column query_id"),
        ("a.csv", [HEADER, GOOD, f"{GOOD},more"], "line 3: more cells than columns"),
        ("a.csv", [HEADER, 'q,"i', GOOD], "line 2: unexpected end of data"),
        ("a.jsonl", [encode(MADE).decode(), "", "[1]"], "line 3 is no JSON object: "),
        ("a.jsonl", ["{"], "line 1 is no JSON object: "),
        ("a.csv", [f"{HEADER},grade", f"{GOOD},5"], "line 1: column grade stands twice"),
        ("a.txt", [], r"expected a file that ends in .csv or .jsonl"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_judgements(written(tmp_path, *lines, name=name), None, 7)
    assert message in str(refused.value)
    assert name in str(refused.value)


def test_a_missing_file_and_another_encoding_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.csv does not exist"):
        read_judgements(tmp_path / "gone.csv", None, 7)
    (tmp_path / "latin.csv").write_bytes(f"{HEADER}\nq-1,größe".encode("latin-1"))
    with pytest.raises(ConfigError, match=rf"byte {len(HEADER) + 7} is no UTF-8"):
        read_judgements(tmp_path / "latin.csv", None, 7)
    with pytest.raises(ConfigError, match=rf"byte {len(HEADER) + 7} is no UTF-8"):
        read_queries(tmp_path / "latin.csv")
    with pytest.raises(ConfigError, match=r"gone\.txt does not exist"):
        read_queries(tmp_path / "gone.txt")


def test_queries_are_lines_without_a_mark_and_without_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_bytes("\ufeffred shoe\r\n\n  größe 42 \n".encode())
    assert read_queries(tmp_path / "queries.txt") == ["red shoe", "größe 42"]


def test_files_of_spreadsheets_are_read(tmp_path: Path) -> None:
    expected = list(read_judgements(written(tmp_path, HEADER, GOOD), None, 7).annotations.values())
    assert expected == [MADE]
    path = tmp_path / "other.csv"
    for text in (
        f"\ufeff{HEADER};note\r\n{GOOD};ok\r\n".replace(",", ";"),
        f"{HEADER}\n{GOOD}\n".replace(",", "\t"),
        f"{HEADER}\n{GOOD}\n".replace(",3,", ",3.0,"),
        f"{HEADER}\n{GOOD}\n{GOOD}\n",
        f"{HEADER}\n{GOOD}\n".replace(",ann,", ", ann ,"),
    ):
        path.write_bytes(text.encode())
        assert list(read_judgements(path, None, 7).annotations.values()) == expected


def test_corrections_with_times_are_taken_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER, f"{GOOD}5", GOOD.replace(",3,", ",2,") + "6")
    assert [each.grade for each in read_judgements(path, None, 7).annotations.values()] == [3, 2]


def test_exported_records_keep_their_ids(tmp_path: Path) -> None:
    lines = [encode(each).decode() for each in (FIRST, LATER, MADE)]
    judged = read_judgements(written(tmp_path, *lines, name="records.jsonl"), None, 99)
    assert list(judged.annotations.values()) == [FIRST, LATER, MADE]
    assert judged.records == {FIRST.event_id, LATER.event_id, MADE.event_id}
    # Without the id, the same line is the same judgement only if its time was known.
    bare = msgspec.json.encode(replace(JUDGED, event_ts=1)).decode()
    again = read_judgements(written(tmp_path, bare, name="bare.jsonl"), None, 99)
    assert list(again.annotations) == [FIRST.event_id]
    assert (again.records, again.line) == (set(), {FIRST.event_id: 1})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_pages_are_read_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pages{suffix}"
    rows = [replace(row, title=row.title.lstrip("=")) for row in ROWS]
    write_pages(path, rows)
    assert read_pages(path) == rows
    path.write_text(path.read_text().replace("i2", ""))
    with pytest.raises(ConfigError, match=r"pages\.\w+: line \d: item_id: Object missing required field"):
        read_pages(path)
