from pathlib import Path

import pytest

from trainer.vectors.boxes import read_boxes
from trainer.vectors.table_file import CatalogueFileError


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("boxes.csv", "item_id,score,x,y,width,height\na,0.9,1,2,30,40\n"),
        ("boxes.jsonl", '{"item_id": "a", "x": 1, "y": 2, "width": 30, "height": 40}\n'),
    ],
)
def test_boxes_are_read_by_item(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    boxes = read_boxes(tmp_path / name)
    assert {item: box.corners for item, box in boxes.items()} == {"a": (1, 2, 31, 42)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1,2,0,4", r"line 2, field width: expected a whole number of pixels from 1 on, got '0'"),
        ("a,-1,2,3,4", r"line 2, field x: expected a whole number of pixels from 0 on, got '-1'"),
        ("a,1.5,2,3,4", r"line 2, field x: expected a whole number of pixels from 0 on, got '1.5'"),
        (",1,2,3,4", r"line 2, field item_id: expected text"),
        ("a,1,2,3,4\na,1,2,3,4", r"line 3, field item_id: .*line 2 has the same, got 'a'"),
    ],
)
def test_a_fault_names_its_place(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "boxes.csv").write_text(f"item_id,x,y,width,height\n{row}\n")
    with pytest.raises(CatalogueFileError, match=message):
        read_boxes(tmp_path / "boxes.csv")
