"""The columns that examples read of the catalogue."""

import numpy as np
import pytest
from msgspec import structs

from tests.trainer.lists import MemoryCatalogue, catalogue, item
from trainer.features import item_table
from trainer.features.item_table import ItemTable


def test_rows_hold_the_records_of_the_catalogue_now() -> None:
    known = catalogue(40)
    table = ItemTable(known)
    ids = ["i3", "gone", "i7", "i3"]
    rows = table.rows(ids)
    assert rows[1] == 0
    assert rows[0] == rows[3] != rows[2]
    for item_id, row in zip(ids, rows.tolist(), strict=True):
        record = known.get(item_id)
        assert table.shop[row] == ((record.shop_id or "") if record else "")
        assert table.brand[row] == ((record.brand_id or "") if record else "")
        assert table.leaf[row] == (record.category_ids[-1] if record else "")
        assert table.paths.paths[table.path[row]] == (tuple(record.category_ids) if record else ())
        vector = known.image(item_id)
        assert table.image.present[row] == (vector is not None)
        assert np.array_equal(table.image.values[row], np.zeros(16) if vector is None else vector)
    known.items["i3"] = structs.replace(known.items["i3"], shop_id="another", image_vec=None)
    del known.items["i7"]
    known.items["gone"] = item("gone")
    changed = table.rows(ids)
    assert table.shop[changed].tolist()[0] == "another"
    assert not table.image.present[changed[0]]
    assert changed[2] == 0
    assert table.leaf[changed[1]] == "c"


def test_the_table_grows_and_starts_anew_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    known = MemoryCatalogue({f"i{number}": item(f"i{number}", category=f"c{number % 9}") for number in range(3_000)})
    table = ItemTable(known)
    rows = table.rows(list(known.items))
    assert len(set(rows.tolist())) == 3_000
    assert table.leaf[rows].tolist() == [f"c{number % 9}" for number in range(3_000)]
    table.trim()
    assert table.rows(["i5"])[0] == rows[5]
    monkeypatch.setattr(item_table, "MAX_ITEMS", 2_999)
    table.trim()
    assert table.rows(["i5"]).tolist() == [1]
    assert table.leaf[1] == "c5"


def test_a_vector_of_another_width_counts_as_missing() -> None:
    known = catalogue(4, p_missing=0.0)
    known.items["i2"] = structs.replace(known.items["i2"], text_vec=bytes(8))
    table = ItemTable(known)
    rows = table.rows(["i1", "i2"])
    assert table.text.present[rows].tolist() == [True, False]
    assert table.text.values[rows].shape == (2, 16)
