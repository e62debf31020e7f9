"""The slots that a version gives to the entities of items, kept so that a list is one gather.

Source: docs/training.md; Hennessy and Patterson, Computer Architecture, appendix B (direct-mapped caches).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from trainer.features.collate import Lookup, Lookups

_PLACES: Final = 32_768


class SlotCache:
    """A direct-mapped cache of the slots of id maps that do not change.

    An entity has one place, which its item decides, and takes it from the one before. A place tells what it holds, so
    an item with a new shop, brand or category is looked up again.

    Args:
        id_maps: The maps.
        num_places: Places, a power of two; each takes 80 bytes.

    Guarantees: equal to the maps for every entity. For one thread.
    """

    def __init__(self, id_maps: Lookups, num_places: int = _PLACES) -> None:
        self._id_maps = id_maps
        # An empty place holds the entity without ids, whose slots are 0.
        self._entity = np.zeros((num_places, 4, 2), np.uint64)
        self._slots = np.zeros((num_places, 4), np.int32)

    @property
    def category(self) -> Lookup:
        """Categories."""
        return self._id_maps.category

    def slots(self, entity: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the slots of hashes of item, shop, brand and category: (k, 4, 2) to (k, 4)."""
        place = (entity[:, 0, 0] & np.uint64(len(self._slots) - 1)).astype(np.int64)
        slots = self._slots[place].astype(np.int64)
        other = np.flatnonzero((self._entity[place] != entity).any(axis=(1, 2)))
        if other.size:
            slots[other] = self._id_maps.slots(entity[other])
            self._entity[place[other]] = entity[other]
            self._slots[place[other]] = slots[other]
        return slots
