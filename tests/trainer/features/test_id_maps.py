import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import ArtifactError
from trainer.features.id_maps import COLD_SLOT, PADDING_SLOT, IdMap, IdMaps


def test_ids_are_cold_until_seen_twice_and_only_change_at_marks() -> None:
    ids = IdMap(10)
    ids.observe(["a", "b", "b"])
    assert ids.lookup(["a", "b", ""]).tolist() == [COLD_SLOT, COLD_SLOT, PADDING_SLOT]
    changes = ids.at_boundary()
    assert changes.admitted.tolist() == [2]
    assert ids.lookup(["a", "b"]).tolist() == [COLD_SLOT, 2]
    ids.observe(["a"])
    ids.at_boundary()
    assert ids.lookup(["a", "b"]).tolist() == [3, 2]


def test_a_full_map_evicts_the_least_recent_low_count_and_reuses_its_slot() -> None:
    ids = IdMap(4, low_count=4)
    ids.observe(["old", "old", "busy"] + ["busy"] * 4)
    ids.at_boundary()
    before = dict(zip(["old", "busy"], ids.lookup(["old", "busy"]).tolist(), strict=True))
    ids.observe(["new", "new"])
    changes = ids.at_boundary()
    assert changes.evicted.tolist() == changes.admitted.tolist() == [before["old"]]
    assert ids.lookup(["old", "busy", "new"]).tolist() == [COLD_SLOT, before["busy"], before["old"]]


def test_nothing_is_evicted_where_all_are_busy() -> None:
    ids = IdMap(3, low_count=2)
    ids.observe(["a", "a"])
    ids.at_boundary()
    ids.observe(["b", "b"])
    assert ids.at_boundary().admitted.size == 0
    assert ids.lookup(["a", "b"]).tolist() == [2, COLD_SLOT]


def test_what_waits_for_admission_is_bounded() -> None:
    ids = IdMap(5)
    ids.observe(f"k{number}" for number in range(100))
    assert len(ids.to_arrays()["pending_counts"]) == 5


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.sampled_from(["", "a", "ü", "ccc", "d", "e", "f"]), max_size=8), max_size=8), st.integers(3, 7)
)
def test_saved_and_loaded_maps_go_on_alike(spans: list[list[str]], capacity: int) -> None:
    ids = IdMap(capacity, low_count=3)
    for span in spans:
        loaded = IdMap.from_arrays(ids.to_arrays(), capacity, low_count=3)
        for one in (ids, loaded):
            one.observe(span)
        mine, theirs = ids.at_boundary(), loaded.at_boundary()
        assert mine.admitted.tolist() == theirs.admitted.tolist()
        assert mine.evicted.tolist() == theirs.evicted.tolist()
        for name, array in ids.to_arrays().items():
            np.testing.assert_array_equal(array, loaded.to_arrays()[name])


def test_damaged_arrays_are_refused() -> None:
    maps = IdMaps.empty({"item": 9, "shop": 9, "brand": 9, "category": 9})
    maps.item.observe(["a", "a", "b", "b"])
    maps.item.at_boundary()
    arrays = dict(maps.to_arrays(counts=False))
    capacities = {"item": 9, "shop": 9, "brand": 9, "category": 9}
    assert IdMaps.from_arrays(arrays, capacities).item.lookup(["b"]).tolist() == [3]
    for slots in ([2, 2], [0, 2], [2, 9], [2]):
        with pytest.raises(ArtifactError):
            IdMaps.from_arrays(arrays | {"item.slots": np.array(slots, np.int64)}, capacities)
    with pytest.raises(ArtifactError):
        IdMaps.from_arrays({key: array for key, array in arrays.items() if key != "shop.text"}, capacities)
