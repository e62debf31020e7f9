"""Maps from string ids to rows of the embedding tables; admission and eviction are a pure function of the log.

Slot 0 is padding, slot 1 the cold row of everything not admitted. Sightings are counted all the time. The map itself
changes at checkpoint boundaries only, so all batches between two boundaries, and the version that is published at a
boundary, see one map.

Source: docs/training.md.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.features import sightings
from trainer.features.collate import TABLES, Batch
from trainer.features.distinct import distinct
from trainer.features.hash_index import Hashes, HashIndex
from trainer.features.sightings import Counts, Seconds
from trainer.features.waiting_ids import WaitingIds

PADDING_SLOT = 0
COLD_SLOT = 1
FIRST_SLOT = 2
HALF_LIFE_S: Final = 14_400

# A newcomer must be seen twice as often as the id whose row it takes: rows would change hands at each boundary else.
_LEAD: Final = 2.0
_UNSETTLED: Final = 262_144

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Slots that changed at a boundary; a slot may be in both: evicted, then given to another id."""

    evicted: NDArray[np.int64]
    admitted: NDArray[np.int64]


class IdMap:
    """Id to slot of one embedding table.

    Ids have the slots from `FIRST_SLOT` on without a gap. While slots are free, an id that was seen often enough gets
    the next one. After that it takes the slot of the id with the lowest aged count, if its own is at least twice that.

    Args:
        capacity: Rows of the table, slots 0 and 1 included.
        min_sightings: Sightings before an id gets a row of its own.
        half_life_s: Half-life of a sighting in seconds of watermark time.
    """

    def __init__(self, capacity: int, *, min_sightings: int = 2, half_life_s: int = HALF_LIFE_S) -> None:
        if not FIRST_SLOT <= capacity < 2**31:
            raise ValueError(f"capacity = {capacity}: expected {FIRST_SLOT} to {2**31 - 1}")
        self.min_sightings = min_sightings
        self.half_life_s = half_life_s
        self._index = HashIndex(capacity)
        self._counts: Counts = np.zeros(capacity, np.float32)
        self._seen_s: Seconds = np.zeros(capacity, np.uint32)
        self._end = FIRST_SLOT
        self._waiting = WaitingIds(capacity, half_life_s)
        self._unsettled: list[Hashes] = []
        self._now_s = 0

    def __len__(self) -> int:
        return self._end - FIRST_SLOT

    @property
    def capacity(self) -> int:
        """Rows of the table."""
        return len(self._counts)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return self._index.nbytes + self._counts.nbytes + self._seen_s.nbytes + self._waiting.nbytes

    def lookup(self, ids: Hashes) -> NDArray[np.int64]:
        """Return the slot of each id: padding for the empty string, cold for unknown ids; changes nothing."""
        slots = self._index.find(ids)
        slots[slots < 0] = COLD_SLOT
        slots[ids.is_none] = PADDING_SLOT
        return slots

    def observe(self, ids: Hashes) -> None:
        """Count one sighting of each id, the empty string left out."""
        slots = self.lookup(ids)
        known, number = distinct(slots[slots >= FIRST_SLOT])
        seen = np.bincount(number)
        self._counts[known] = sightings.add(
            self._counts[known], self._seen_s[known], seen, self._now_s, self.half_life_s
        )
        self._seen_s[known] = self._now_s
        self._unsettled.append(ids.take(slots == COLD_SLOT))
        if sum(len(some.high) for some in self._unsettled) > _UNSETTLED:
            self._settle()

    def _settle(self) -> None:
        """Move the sightings of unknown ids to those that wait."""
        if not self._unsettled:
            return
        high = np.concatenate([some.high for some in self._unsettled])
        low = np.concatenate([some.low for some in self._unsettled])
        self._unsettled = []
        order = np.lexsort((low, high))
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
        starts = np.flatnonzero(is_first)
        if not starts.size:
            return
        totals = np.diff(starts, append=len(order))
        firsts = order[starts]
        in_order = np.argsort(firsts)
        firsts = firsts[in_order]
        self._waiting.add(Hashes(high[firsts], low[firsts]), totals[in_order], self._now_s)

    def at_boundary(self, boundary_ts: int) -> Changes:
        """Admit what was seen often enough, evict what is seen least where the table is full, and forget the rest.

        Args:
            boundary_ts: The boundary in watermark time, in milliseconds, a whole second.
        """
        self._settle()
        self._now_s = boundary_ts // 1000
        self._waiting.forget(self._now_s)
        ready = self._waiting.ready(self.min_sightings, self._now_s)
        free = np.arange(self._end, min(self.capacity, self._end + len(ready)))
        evicted = self._losers(self._waiting.aged(ready[len(free) :], self._now_s))
        admitted = np.concatenate([free, evicted])
        self._index.remove(evicted)
        ids, counts = self._waiting.take(ready[: len(admitted)], self._now_s)
        self._index.put(admitted, ids)
        self._counts[admitted] = counts
        self._seen_s[admitted] = self._now_s
        self._end += len(free)
        return Changes(evicted=evicted, admitted=admitted)

    def _losers(self, newcomers: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the slots that newcomers with these aged counts, descending, take over."""
        if not newcomers.size:
            return np.zeros(0, np.int64)
        used = slice(FIRST_SLOT, self._end)
        slots = np.arange(FIRST_SLOT, self._end)
        counts = sightings.aged(self._counts[used], self._seen_s[used], self._now_s, self.half_life_s)
        losers = sightings.lowest(counts, slots, len(newcomers))
        is_behind = _LEAD * counts[losers] <= newcomers[: len(losers)]
        return slots[losers[: int(np.count_nonzero(is_behind))]]

    def slots_in_use(self, since_s: int | None = None) -> NDArray[np.int64]:
        """Return the slots of ids, ascending; with `since_s`, of those admitted or seen after that boundary."""
        slots = np.arange(FIRST_SLOT, self._end)
        return slots if since_s is None else slots[self._seen_s[slots] >= since_s]

    def to_arrays(self, *, counts: bool = True, slots: NDArray[np.int64] | None = None) -> Arrays:
        """Return the map as arrays in slot order.

        Args:
            counts: Whether the counts come along; a lookup needs none.
            slots: Only the ids of these slots.
        """
        self._settle()
        used = self.slots_in_use() if slots is None else slots
        arrays: Arrays = {"high": self._index.high[used], "low": self._index.low[used]}
        if counts:
            arrays |= {"counts": self._counts[used], "seen_s": self._seen_s[used], "now_s": np.array([self._now_s])}
            arrays |= self._waiting.to_arrays()
        return arrays

    def replace_ids(self, slots: NDArray[np.int64], ids: Hashes) -> None:
        """Give these slots these ids; the counts stay, so the map is for look-ups from then on.

        Args:
            slots: Slots, ascending; those that are not in use yet follow the last one without a gap.
            ids: Their ids.

        Raises:
            ArtifactError: If the ids do not fit the slots or the table, or an id stands in two rows; the map is of no
                use then.
        """
        if not len(ids.high) == len(ids.low) == len(slots) or (slots >= self.capacity).any():
            raise ArtifactError(f"id map: {len(ids.high)} ids do not fit a table of {self.capacity} rows")
        is_new = slots >= self._end
        moved = is_new | (self._index.high[slots] != ids.high) | (self._index.low[slots] != ids.low)
        self._index.remove(slots[moved & ~is_new])
        self._index.put(slots[moved], ids.take(moved))
        self._end = max(self._end, int(slots.max(initial=0)) + 1)
        if not np.array_equal(self._index.find(ids), slots):
            raise ArtifactError("id map: an id stands in two rows")

    def taken_over(
        self, slots: NDArray[np.int64], capacity: int, *, seen_s: int, min_sightings: int, half_life_s: int
    ) -> Self:
        """Return a map of another capacity with the ids of these slots, each as if seen `min_sightings` times.

        Args:
            slots: Slots in use, ascending; their ids get the slots from `FIRST_SLOT` on.
            capacity: Rows of the new table.
            seen_s: When the ids count as seen, in seconds of watermark time.
            min_sightings: Sightings before an id gets a row of its own in the new table.
            half_life_s: Half-life of a sighting in the new table.
        """
        arrays: Arrays = {
            "high": self._index.high[slots],
            "low": self._index.low[slots],
            "counts": np.full(len(slots), min(min_sightings, sightings.LIMIT), np.float32),
            "seen_s": np.full(len(slots), seen_s, np.uint32),
            "now_s": np.array([seen_s]),
        }
        arrays |= WaitingIds(capacity, half_life_s).to_arrays()
        return self.from_arrays(arrays, capacity, min_sightings=min_sightings, half_life_s=half_life_s)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[np.generic]],
        capacity: int,
        *,
        min_sightings: int = 2,
        half_life_s: int = HALF_LIFE_S,
    ) -> Self:
        """Return the map that `to_arrays` wrote, in a table of at least its size.

        Raises:
            ArtifactError: If ids repeat or do not fit into the table.
        """
        found = cls(capacity, min_sightings=min_sightings, half_life_s=half_life_s)
        ids = Hashes(arrays["high"].astype(np.uint64), arrays["low"].astype(np.uint64))
        found._end += len(ids.high)
        slots = np.arange(FIRST_SLOT, found._end)
        if found._end > capacity or len(ids.low) != len(ids.high):
            raise ArtifactError(f"id map of {len(ids.high)} ids does not fit a table of {capacity} rows")
        found._index.put(slots, ids)
        if not np.array_equal(found._index.find(ids), slots):
            raise ArtifactError("id map: an id stands in two rows")
        if "counts" in arrays:
            found._counts[slots] = arrays["counts"]
            found._seen_s[slots] = arrays["seen_s"]
            found._now_s = int(arrays["now_s"][0])
            found._waiting = WaitingIds.from_arrays(arrays, capacity, half_life_s)
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

    def slots(self, entity: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the slots of hashes of item, shop, brand and category: (k, 4, 2) to (k, 4)."""
        tables = enumerate(self.by_name().values())
        return np.stack([table.lookup(Hashes.of(entity[:, kind])) for kind, table in tables], axis=1)

    def to_arrays(self, *, counts: bool = True, slots: Mapping[str, NDArray[np.int64]] | None = None) -> Arrays:
        """Return all maps as arrays named `<table>.<array>`, or the ids of these slots only."""
        return {
            f"{name}.{key}": array
            for name, id_map in self.by_name().items()
            for key, array in id_map.to_arrays(counts=counts, slots=None if slots is None else slots[name]).items()
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[np.generic]],
        capacities: Mapping[str, int],
        *,
        min_sightings: int = 2,
        half_life_s: int = HALF_LIFE_S,
    ) -> Self:
        """Return the maps that `to_arrays` wrote.

        Raises:
            ArtifactError: If an array is missing or does not fit.
        """
        maps: dict[str, IdMap] = {}
        for name in cls.__dataclass_fields__:
            own = {key.partition(".")[2]: array for key, array in arrays.items() if key.partition(".")[0] == name}
            try:
                maps[name] = IdMap.from_arrays(
                    own, capacities[name], min_sightings=min_sightings, half_life_s=half_life_s
                )
            except (KeyError, ValueError, IndexError) as error:
                raise ArtifactError(f"id map '{name}': {error!r}") from error
        return cls(**maps)

    @classmethod
    def empty(cls, capacities: Mapping[str, int], *, min_sightings: int = 2, half_life_s: int = HALF_LIFE_S) -> Self:
        """Return maps that know no id yet."""
        return cls(
            **{
                name: IdMap(capacities[name], min_sightings=min_sightings, half_life_s=half_life_s)
                for name in cls.__dataclass_fields__
            }
        )


def count_candidates(batch: Batch) -> Counter[tuple[str, str]]:
    """Return the number of candidates by id table, and by `own` or `cold` row.

    Candidates of the row `cold` share it. One without an id of that table, for example without a brand, is not counted.
    """
    slots = batch.cand_id[batch.cand_mask]
    cold, own = np.count_nonzero(slots == COLD_SLOT, axis=0), np.count_nonzero(slots > COLD_SLOT, axis=0)
    counted: Counter[tuple[str, str]] = Counter()
    for kind, table in enumerate(TABLES):
        counted[table, "cold"], counted[table, "own"] = int(cold[kind]), int(own[kind])
    return counted
