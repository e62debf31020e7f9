"""The columns that examples read of the catalogue."""

import numpy as np
import pytest
from msgspec import structs

from tests.trainer.lists import MemoryCatalogue, catalogue, item
from trainer.features import item_f16, item_table
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


def test_the_columns_of_a_list_that_makes_the_table_grow_are_read_from_the_grown_one() -> None:
    known = MemoryCatalogue({f"i{number}": item(f"i{number}") for number in range(1_100)})
    ids = list(known.items)
    expected = item_f16(list(known.items.values()), [5] * len(ids))
    assert ItemTable(known).item_f16(ids, [5] * len(ids)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("num_prices", [0, 1, 3])
def test_each_item_has_a_price_of_its_own(num_prices: int) -> None:
    with pytest.raises(ValueError, match=f"{num_prices} prices of 2 items"):
        ItemTable(catalogue(4)).item_f16(["i1", "i2"], [5] * num_prices)


def test_a_vector_of_another_width_counts_as_missing() -> None:
    known = catalogue(4, p_missing=0.0)
    known.items["i2"] = structs.replace(known.items["i2"], text_vec=bytes(8))
    table = ItemTable(known)
    rows = table.rows(["i1", "i2"])
    assert table.text.present[rows].tolist() == [True, False]
    assert table.text.values[rows].shape == (2, 16)


def test_item_columns_are_those_of_the_records_at_the_prices_shown() -> None:
    known = catalogue(90)
    table = ItemTable(known)
    rng = np.random.default_rng(3)
    ids = [*known.items, "gone"]
    for changed in ("i1", "i2", "i3"):
        prices = [int(price) for price in rng.integers(-5, 90_000, size=len(ids))]
        expected = item_f16([known.get(item_id) for item_id in ids], prices)
        assert table.item_f16(ids, prices).tobytes() == expected.tobytes()
        known.items[changed] = structs.replace(known.items[changed], sales_28d=77, image_vec=None, attributes=None)


def test_a_price_as_shown_stays_with_its_request() -> None:
    known = catalogue(4)
    table = ItemTable(known)
    own = known.items["i1"].price_minor
    before = table.item_f16(["i1"], [own])
    assert table.item_f16(["i1"], [own + 10_000])[0, 0] > before[0, 0]
    assert table.item_f16(["i1"], [own]).tobytes() == before.tobytes()
