"""Catalogue files: three forms of the same items, and refusals that name file, line, field and value."""

import json
from pathlib import Path

import polars as pl
import pytest

from trainer.vectors.catalogue_file import CatalogueFile, chunks
from trainer.vectors.table_file import CatalogueFileError

ITEMS: list[dict[str, object]] = [
    {"item_id": "a", "title": "Red shoe", "attributes": {"size": 42, "colour": ["red", "white"]}, "image": "a.png"},
    {"item_id": "b", "title": "Höhe 3", "attributes": None, "image": None},
]


def write(path: Path, items: list[dict[str, object]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    elif path.suffix == ".parquet":
        pl.DataFrame(items).write_parquet(path)
    else:
        texts = [{**item, "attributes": item["attributes"] and json.dumps(item["attributes"])} for item in items]
        pl.DataFrame(texts).write_csv(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_each_form_gives_the_same_items(tmp_path: Path, suffix: str) -> None:
    rows = list(CatalogueFile(write(tmp_path / f"items{suffix}", ITEMS)))
    assert [(row.item_id, row.text, row.image) for row in rows] == [
        ("a", "Red shoe. colour red white. size 42", tmp_path / "a.png"),
        ("b", "Höhe 3", None),
    ]


def test_further_columns_are_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,titel,title,price\na,x,shoe,3\n")
    file = CatalogueFile(tmp_path / "items.csv")
    assert [row.text for row in file] == ["shoe"]
    assert file.not_read == {"titel", "price"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id,titel\n", "items.csv line 1: no column title"),
        ("", "items.csv line 1: no column item_id and no column title"),
        ("item_id,title,title\n", "items.csv line 1: a column stands twice"),
        ("item_id,title\na,shoe\nb,   \n", "items.csv line 3, field title: expected text that is not blank, got '   '"),
        ("item_id,title\n,shoe\n", "items.csv line 2, field item_id: expected text of 1 to 256 characters, got ''"),
        ("item_id,title\na,shoe\na,boot\n", "line 3, field item_id: .*line 2 has the same, got 'a'"),
        ("item_id,title\na\n", "items.csv line 2: expected 2 cells, got 1"),
        ('item_id,title\na,"shoe\n', "items.csv line 2: "),
        ("item_id,title,attributes\na,shoe,red\n", "line 2, field attributes: expected a JSON object .*, got 'red'"),
        ("item_id,title,attributes\na,shoe,[1]\n", "line 2, field attributes: expected an object"),
        (
            'item_id,title,attributes\na,shoe,"{""size"": {""eu"": 42}}"\n',
            "line 2, field attributes.size: expected text, .*, got {'eu': 42}",
        ),
    ],
)
def test_a_fault_of_a_csv_file_names_its_place(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "items.csv").write_text(content)
    with pytest.raises(CatalogueFileError, match=message):
        list(CatalogueFile(tmp_path / "items.csv"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"item_id": "b"}', "items.jsonl line 3, field title: missing"),
        (b'{"item_id": 7, "title": "x"}', "line 3, field item_id: expected text of 1 to 256 characters, got 7"),
        (b'{"item_id": "b", "title": "x", "image": 1}', "line 3, field image: expected the path of a picture, got 1"),
        (b"[1]", "line 3: expected a JSON object"),
        (b'{"item_id": "b', "line 3: expected a JSON object"),
        (b'{"item_id": "\xff"}', "line 3: expected a JSON object"),
        (b'{"item_id": "b", "attributes": ' + b"[" * 99_999, "line 3: expected a JSON object"),
    ],
)
def test_a_fault_of_json_lines_names_its_place(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "items.jsonl").write_bytes(b'{"item_id": "a", "title": "shoe"}\n\n' + line + b"\n")
    with pytest.raises(CatalogueFileError, match=message):
        list(CatalogueFile(tmp_path / "items.jsonl"))


def test_a_fault_of_a_parquet_file_names_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "items.parquet", [*ITEMS, {**ITEMS[1], "item_id": "c", "title": ""}])
    with pytest.raises(CatalogueFileError, match=r"items.parquet row 3, field title: expected .*, got ''"):
        list(CatalogueFile(path))
    pl.DataFrame({"item_id": ["a"]}).write_parquet(path)
    with pytest.raises(CatalogueFileError, match="no column title"):
        list(CatalogueFile(path))
    path.write_bytes(b"PAR1")
    with pytest.raises(CatalogueFileError, match=r"items\.parquet"):
        list(CatalogueFile(path))


def test_attributes_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,attributes\na,shoe," + "[" * 99_999 + "\n")
    with pytest.raises(CatalogueFileError, match=r"line 2, field attributes: expected a JSON object"):
        list(CatalogueFile(tmp_path / "items.csv"))


def test_bytes_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes(b"item_id,title\na,shoe\nb,sh\xf6e\nc,hat\n")
    with pytest.raises(CatalogueFileError, match=r"items\.csv line 3: no UTF-8, got b'b,sh\\xf6e"):
        list(CatalogueFile(tmp_path / "items.csv"))


@pytest.mark.parametrize("name", ["items.txt", "missing.csv"])
def test_other_suffixes_and_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "items.txt").write_text("")
    with pytest.raises(CatalogueFileError, match=name):
        CatalogueFile(tmp_path / name)


def test_chunks_keep_order_and_size(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", [{"item_id": str(n), "title": "x"} for n in range(5)])
    assert [[row.item_id for row in chunk] for chunk in chunks(CatalogueFile(path), 2)] == [
        ["0", "1"],
        ["2", "3"],
        ["4"],
    ]
