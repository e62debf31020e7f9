"""Maps from string ids to rows of the embedding tables; admission and eviction are a pure function of the log.

Slot 0 is padding, slot 1 the cold row of everything not admitted. Sightings are counted all the time. The map itself
changes at checkpoint boundaries only, so all batches between two boundaries, and the version that is published at a
boundary, see one map.

Source: docs/training.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError

PADDING_SLOT = 0
COLD_SLOT = 1
FIRST_SLOT = 2

Arrays = dict[str, NDArray[np.uint8] | NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Slots that changed at a boundary; a slot may be in both: evicted, then given to another id."""

    evicted: NDArray[np.int64]
    admitted: NDArray[np.int64]


class IdMap:
    """Id to slot of one embedding table.

    Args:
        capacity: Rows of the table, slots 0 and 1 included.
        min_sightings: Sightings before an id gets a row of its own.
        low_count: Ids seen at least so often are never evicted for a newcomer.
    """

    def __init__(self, capacity: int, *, min_sightings: int = 2, low_count: int = 16) -> None:
        if capacity < FIRST_SLOT:
            raise ValueError(f"capacity = {capacity}: expected at least {FIRST_SLOT}")
        self.capacity = capacity
        self.min_sightings = min_sightings
        self.low_count = low_count
        self._slots: dict[str, int] = {}
        self._free = list(range(capacity - 1, FIRST_SLOT - 1, -1))  # the lowest free slot is last
        self._counts = np.zeros(capacity, np.int64)
        self._last_boundary = np.full(capacity, -1, np.int64)
        self._pending: dict[str, int] = {}
        self.num_boundaries = 0

    def __len__(self) -> int:
        return len(self._slots)

    def lookup(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return the slot of each key: padding for the empty string, cold for unknown ids; changes nothing."""
        get = self._slots.get
        return np.fromiter((get(key, COLD_SLOT) if key else PADDING_SLOT for key in keys), np.int64, len(keys))

    def observe(self, keys: Iterable[str]) -> None:
        """Count one sighting of each key."""
        for key in keys:
            if not key:
                continue
            slot = self._slots.get(key)
            if slot is None:
                self._pending[key] = self._pending.get(key, 0) + 1
                if len(self._pending) > self.capacity:
                    del self._pending[next(iter(self._pending))]
            else:
                self._counts[slot] += 1
                self._last_boundary[slot] = self.num_boundaries

    def at_boundary(self) -> Changes:
        """Admit what was seen often enough, in the order first seen; evict the least recent low counts when full."""
        wanted = [key for key, count in self._pending.items() if count >= self.min_sightings]
        evicted = self._evict(len(wanted) - len(self._free))
        admitted: list[int] = []
        for key in wanted[: len(self._free)]:
            slot = self._free.pop()
            self._slots[key] = slot
            self._counts[slot] = self._pending.pop(key)
            self._last_boundary[slot] = self.num_boundaries
            admitted.append(slot)
        self.num_boundaries += 1
        return Changes(evicted=np.array(evicted, np.int64), admitted=np.array(admitted, np.int64))

    def _evict(self, num_wanted: int) -> list[int]:
        if num_wanted <= 0:
            return []
        keys = {slot: key for key, slot in self._slots.items()}
        old = sorted(
            (int(self._last_boundary[slot]), int(self._counts[slot]), slot)
            for slot in keys
            if self._counts[slot] < self.low_count and self._last_boundary[slot] < self.num_boundaries
        )
        evicted = [slot for _, _, slot in old[:num_wanted]]
        for slot in evicted:
            del self._slots[keys[slot]]
            self._counts[slot] = 0
            self._last_boundary[slot] = -1
        self._free = sorted([*self._free, *evicted], reverse=True)
        return evicted

    def to_arrays(self, *, counts: bool = True) -> Arrays:
        """Return the map as arrays in slot order; without `counts` only what a lookup needs."""
        entries = sorted((slot, key) for key, slot in self._slots.items())
        slots = np.array([slot for slot, _ in entries], np.int64)
        text, ends = _pack([key for _, key in entries])
        arrays: Arrays = {"text": text, "ends": ends, "slots": slots}
        if counts:
            pending_text, pending_ends = _pack(list(self._pending))
            arrays |= {
                "counts": self._counts[slots],
                "last_boundary": self._last_boundary[slots],
                "pending_text": pending_text,
                "pending_ends": pending_ends,
                "pending_counts": np.array(list(self._pending.values()), np.int64),
                "num_boundaries": np.array([self.num_boundaries], np.int64),
            }
        return arrays

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], capacity: int, *, min_sightings: int = 2, low_count: int = 16
    ) -> Self:
        """Return the map that `to_arrays` wrote.

        Raises:
            ArtifactError: If keys repeat, or slots repeat or lie outside of the table.
        """
        found = cls(capacity, min_sightings=min_sightings, low_count=low_count)
        keys = _unpack(arrays["text"], arrays["ends"])
        slots = arrays["slots"].astype(np.int64)
        distinct = len(set(keys)) == len(keys) == len(slots) == len(np.unique(slots))
        if not distinct or (len(slots) and not FIRST_SLOT <= slots.min() <= slots.max() < capacity):
            raise ArtifactError(f"id map of {len(keys)} keys does not fit a table of {capacity} rows")
        found._slots = dict(zip(keys, slots.tolist(), strict=True))
        taken = set(slots.tolist())
        found._free = [slot for slot in range(capacity - 1, FIRST_SLOT - 1, -1) if slot not in taken]
        if "counts" in arrays:
            found._counts[slots] = arrays["counts"]
            found._last_boundary[slots] = arrays["last_boundary"]
            pending = _unpack(arrays["pending_text"], arrays["pending_ends"])
            found._pending = dict(zip(pending, arrays["pending_counts"].tolist(), strict=True))
            found.num_boundaries = int(arrays["num_boundaries"][0])
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMaps:
    """The id maps of the four embedding tables."""

    item: IdMap
    shop: IdMap
    brand: IdMap
    category: IdMap

    def by_name(self) -> dict[str, IdMap]:
        """Return table name to map, in a fixed order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_arrays(self, *, counts: bool = True) -> Arrays:
        """Return all maps as arrays named `<table>.<array>`."""
        return {
            f"{name}.{key}": array
            for name, id_map in self.by_name().items()
            for key, array in id_map.to_arrays(counts=counts).items()
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], capacities: Mapping[str, int], *, min_sightings: int = 2
    ) -> Self:
        """Return the maps that `to_arrays` wrote.

        Raises:
            ArtifactError: If an array is missing or does not fit.
        """
        maps: dict[str, IdMap] = {}
        for name in cls.__dataclass_fields__:
            own = {key.partition(".")[2]: array for key, array in arrays.items() if key.partition(".")[0] == name}
            try:
                maps[name] = IdMap.from_arrays(own, capacities[name], min_sightings=min_sightings)
            except (KeyError, ValueError, IndexError) as error:
                raise ArtifactError(f"id map '{name}': {error!r}") from error
        return cls(**maps)

    @classmethod
    def empty(cls, capacities: Mapping[str, int], *, min_sightings: int = 2) -> Self:
        """Return maps that know no id yet."""
        return cls(**{name: IdMap(capacities[name], min_sightings=min_sightings) for name in cls.__dataclass_fields__})


def _pack(keys: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    encoded = [key.encode() for key in keys]
    ends = np.cumsum([len(raw) for raw in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8).copy(), ends


def _unpack(text: NDArray[np.generic], ends: NDArray[np.generic]) -> list[str]:
    raw = text.astype(np.uint8).tobytes()
    stops = ends.astype(np.int64).tolist()
    if (stops[-1] if stops else 0) != len(raw):
        raise ArtifactError(f"id map: {len(raw)} bytes of keys, expected {stops[-1] if stops else 0}")
    return [raw[start:stop].decode() for start, stop in zip([0, *stops], stops, strict=False)]
