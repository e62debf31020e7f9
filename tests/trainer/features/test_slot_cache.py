"""The slots that a version gives to the entities of items, kept."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.trainer.lists import HashLookups, id_maps
from trainer.features.collate import Lookup
from trainer.features.hash_index import hash_pairs
from trainer.features.slot_cache import SlotCache


def entities(rng: np.random.Generator, num: int) -> NDArray[np.uint64]:
    keys = [
        f"{kind}{rng.integers(0, size) or ''}"
        for _ in range(num)
        for kind, size in zip("isbc", (90, 3, 4, 5), strict=True)
    ]
    return hash_pairs(keys).reshape(num, 4, 2)


class CountingLookups:
    def __init__(self) -> None:
        self.maps: HashLookups = id_maps()
        self.num_asked = 0

    @property
    def category(self) -> Lookup:
        return self.maps.category

    def slots(self, entity: NDArray[np.uint64]) -> NDArray[np.int64]:
        self.num_asked += len(entity)
        return self.maps.slots(entity)


@pytest.mark.parametrize("num_places", [1, 16, 1_024])
def test_kept_slots_are_those_of_the_maps(num_places: int) -> None:
    rng, maps = np.random.default_rng(num_places), id_maps()
    cache = SlotCache(maps, num_places)
    for _ in range(20):
        asked = entities(rng, 40)
        assert np.array_equal(cache.slots(asked), maps.slots(asked))
    none = np.zeros((2, 4, 2), np.uint64)
    assert cache.slots(none).tolist() == maps.slots(none).tolist() == [[0] * 4] * 2
    assert cache.slots(none[:0]).shape == (0, 4)
    assert cache.category is maps.category


def test_known_entities_are_not_looked_up_again() -> None:
    maps = CountingLookups()
    cache = SlotCache(maps)
    asked = hash_pairs(["i1", "s", "b", "c", "i2", "s", "b", "c"]).reshape(2, 4, 2).copy()
    first = cache.slots(asked)
    assert np.array_equal(cache.slots(asked), first)
    assert maps.num_asked == 2
    asked[0, 1] = hash_pairs(["another shop"])[0]
    assert np.array_equal(cache.slots(asked), maps.maps.slots(asked))
    assert maps.num_asked == 3
