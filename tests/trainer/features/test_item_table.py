"""The columns that examples read of the catalogue."""

import numpy as np
import pytest
from msgspec import structs

from tests.trainer.lists import MemoryCatalogue, catalogue, item
from trainer.features import item_table
from trainer.features.hash_index import hash_pairs
from trainer.features.item_table import ItemTable


def test_rows_hold_the_records_of_the_catalogue_now() -> None:
    known = catalogue(40)
    table = ItemTable(known)
    ids = ["i3", "gone", "i7", "i3"]
    rows = table.rows(ids)
    assert len(set(rows.tolist())) == 3
    assert rows[0] == rows[3]
    for item_id, row in zip(ids, rows.tolist(), strict=True):
        record = known.get(item_id)
        shop, brand = ((record.shop_id or ""), (record.brand_id or "")) if record else ("", "")
        assert table.leaf[row] == (record.category_ids[-1] if record else "")
        assert table.entity[row].tolist() == hash_pairs([item_id, shop, brand, table.leaf[row]]).tolist()
        assert table.paths.paths[table.path[row]] == (tuple(record.category_ids) if record else ())
        vector = known.image(item_id)
        assert table.image.present[row] == (vector is not None)
        assert np.array_equal(table.image.values[row], np.zeros(16) if vector is None else vector)
    known.items["i3"] = structs.replace(known.items["i3"], shop_id="another", image_vec=None)
    del known.items["i7"]
    known.items["gone"] = item("gone")
    changed = table.rows(ids)
    assert changed.tolist() == rows.tolist()
    assert table.entity[changed[0], 1].tolist() == hash_pairs(["another"])[0].tolist()
    assert not table.image.present[changed[0]]
    assert (table.leaf[changed[1]], table.leaf[changed[2]]) == ("c", "")
    assert table.entity[changed[2], 1:].tolist() == [[0, 0]] * 3
    assert not table.text.present[changed[2]]


def test_the_table_grows_and_starts_anew_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    known = MemoryCatalogue({f"i{number}": item(f"i{number}", category=f"c{number % 9}") for number in range(3_000)})
    table = ItemTable(known)
    rows = table.rows(list(known.items))
    assert len(set(rows.tolist())) == 3_000
    assert [table.leaf[row] for row in rows] == [f"c{number % 9}" for number in range(3_000)]
    table.trim()
    assert table.rows(["i5"])[0] == rows[5]
    monkeypatch.setattr(item_table, "MAX_ITEMS", 2_999)
    table.trim()
    assert table.rows(["i5"]).tolist() == [0]
    assert table.leaf == ["c5"]


def test_a_vector_of_another_width_counts_as_missing() -> None:
    known = catalogue(4, p_missing=0.0)
    known.items["i2"] = structs.replace(known.items["i2"], text_vec=bytes(8))
    table = ItemTable(known)
    rows = table.rows(["i1", "i2"])
    assert table.text.present[rows].tolist() == [True, False]
    assert table.text.values[rows].shape == (2, 16)
