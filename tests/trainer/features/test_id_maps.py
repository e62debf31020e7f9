"""Rows of ids: a function of the log alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import ArtifactError
from tests.trainer.lists import hashes
from trainer.features.id_maps import COLD_SLOT, FIRST_SLOT, HALF_LIFE_S, PADDING_SLOT, IdMap, IdMaps

HOUR_MS = 3_600_000
HALF_LIFE_MS = HALF_LIFE_S * 1000


def test_ids_are_cold_until_seen_twice_and_only_change_at_boundaries() -> None:
    ids = IdMap(10)
    ids.observe(hashes(["a", "b", "b"]))
    assert ids.lookup(hashes(["a", "b", ""])).tolist() == [COLD_SLOT, COLD_SLOT, PADDING_SLOT]
    changes = ids.at_boundary(0)
    assert changes.admitted.tolist() == [2]
    assert ids.lookup(hashes(["a", "b"])).tolist() == [COLD_SLOT, 2]
    ids.observe(hashes(["a"]))
    ids.at_boundary(1000)
    assert ids.lookup(hashes(["a", "b"])).tolist() == [3, 2]


def test_a_newcomer_seen_twice_as_often_takes_the_row_that_is_seen_least() -> None:
    ids = IdMap(FIRST_SLOT + 2)
    ids.observe(hashes(["old"] * 2 + ["busy"] * 5))
    ids.at_boundary(0)
    before = dict(zip(["old", "busy"], ids.lookup(hashes(["old", "busy"])).tolist(), strict=True))
    ids.observe(hashes(["new"] * 3))
    assert ids.at_boundary(1000).admitted.size == 0, "3 is less than twice 2"
    ids.observe(hashes(["new"] * 2))
    changes = ids.at_boundary(2000)
    assert changes.evicted.tolist() == changes.admitted.tolist() == [before["old"]]
    assert ids.lookup(hashes(["old", "busy", "new"])).tolist() == [COLD_SLOT, before["busy"], before["old"]]


def test_counts_age_in_watermark_time() -> None:
    ids = IdMap(FIRST_SLOT + 1)
    ids.at_boundary(0)
    ids.observe(hashes(["old"] * 8))
    ids.at_boundary(60_000)
    for half_lives, is_in in [(1, False), (2, False), (3, True)]:
        ids.at_boundary(half_lives * HALF_LIFE_MS)
        ids.observe(hashes(["new"] if half_lives < 3 else ["new", "new"]))
        ids.at_boundary(half_lives * HALF_LIFE_MS + 60_000)
        assert (ids.lookup(hashes(["new"])).tolist() == [FIRST_SLOT]) == is_in


def test_popular_newcomers_displace_rare_ids_where_more_are_alive_than_fit() -> None:
    ids = IdMap(FIRST_SLOT + 10)
    for hour in range(12):
        if hour >= 1:
            ids.observe(hashes([f"popular{number}" for number in range(10)] * 30))
        ids.observe(hashes([f"rare{number}" for number in range(10)] * 2))
        ids.at_boundary(hour * HOUR_MS)
    assert (ids.lookup(hashes([f"popular{number}" for number in range(10)])) >= FIRST_SLOT).all()


def test_what_waits_for_admission_is_bounded_and_the_least_seen_leave() -> None:
    ids = IdMap(5, min_sightings=3)
    ids.observe(hashes(["often", "often"]))
    ids.observe(hashes(f"k{number}" for number in range(100)))
    ids.at_boundary(0)
    assert len(ids.to_arrays()["waiting_high"]) == 5
    ids.observe(hashes(["often"]))
    ids.at_boundary(1000)
    assert ids.lookup(hashes(["often"])).tolist() == [FIRST_SLOT]


def test_what_waits_and_is_seen_no_more_is_forgotten() -> None:
    ids = IdMap(50)
    ids.observe(hashes(["once", "once more"]))
    ids.at_boundary(0)
    ids.at_boundary(6 * HALF_LIFE_MS)
    assert len(ids.to_arrays()["waiting_high"]) == 2
    ids.at_boundary(7 * HALF_LIFE_MS)
    assert len(ids.to_arrays()["waiting_high"]) == 0
    ids.observe(hashes(["once"]))
    ids.at_boundary(8 * HALF_LIFE_MS)
    assert ids.lookup(hashes(["once"])).tolist() == [COLD_SLOT]


def test_a_year_without_a_record_breaks_nothing() -> None:
    ids = IdMap(FIRST_SLOT + 1)
    ids.observe(hashes(["old", "old", "waits", "waits"]))
    ids.at_boundary(0)
    ids.at_boundary(365 * 24 * HOUR_MS)
    ids.observe(hashes(["new", "new"]))
    ids.at_boundary(365 * 24 * HOUR_MS + 1000)
    assert ids.lookup(hashes(["old", "waits", "new"])).tolist() == [COLD_SLOT, COLD_SLOT, FIRST_SLOT]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([600, 3600]), st.booleans())
def test_a_full_change_of_the_assortment_leaves_no_live_id_cold_after_a_day(
    num_live: int, seed: int, interval_s: int, popular: bool
) -> None:
    """Judged in watermark time: as many rows as live ids, each seen once per half-life, many of them more often."""
    rng = np.random.default_rng(seed)
    ids = IdMap(FIRST_SLOT + num_live)
    per_half_life = HALF_LIFE_S // interval_s
    now_s = 0

    def run(name: str, half_lives: int) -> None:
        nonlocal now_s
        for _ in range(half_lives):
            once = rng.integers(per_half_life, size=num_live)
            for interval in range(per_half_life):
                keys = [f"{name}{number}" for number in np.flatnonzero(once == interval)]
                if popular and interval % 7 == 0:
                    keys += [f"{name}{number}" for number in rng.zipf(1.5, 100) % num_live]
                ids.observe(hashes(keys))
                now_s += interval_s
                ids.at_boundary(now_s * 1000)

    run("old", 6)
    run("new", 6)
    assert now_s == 2 * 24 * 3600
    assert (ids.lookup(hashes([f"new{number}" for number in range(num_live)])) >= FIRST_SLOT).all()
    assert (ids.lookup(hashes([f"old{number}" for number in range(num_live)])) == COLD_SLOT).all()


class PlainMap:
    """The rules of `IdMap` over dicts, one id after the other."""

    def __init__(self, capacity: int, half_life_s: float) -> None:
        self.capacity, self.half_life_s = capacity, half_life_s
        self.slots: dict[str, int] = {}
        self.counts: dict[str, tuple[float, float]] = {}
        self.sightings: Counter[str] = Counter()
        self.now_s = 0.0

    def aged(self, key: str) -> float:
        count, seen_s = self.counts.get(key, (0.0, 0.0))
        return float(count * 0.5 ** ((self.now_s - seen_s) / self.half_life_s))

    def observe(self, keys: list[str]) -> None:
        for key, seen in Counter(key for key in keys if key).items():
            self.counts[key] = (float(np.float32(min(self.aged(key) + seen, 16))), self.now_s)
            self.sightings[key] += seen

    def at_boundary(self, now_s: float) -> None:
        self.now_s = now_s
        waiting = [key for key in self.counts if key not in self.slots]
        for key in waiting:
            if self.aged(key) < 1 / 64:
                del self.counts[key], self.sightings[key]
        waiting = [key for key in waiting if key in self.counts]
        # Python sorts are stable: of equal counts, the key seen first stays first.
        excess = len(waiting) - self.capacity
        for key in sorted(waiting, key=self.aged)[: max(excess, 0)]:
            del self.counts[key], self.sightings[key]
        ready = [key for key in waiting if key in self.counts and self.sightings[key] >= 2]
        ready.sort(key=self.aged, reverse=True)
        owners = sorted(self.slots, key=lambda key: (self.aged(key), self.slots[key]))
        for key in ready:
            if len(self.slots) < self.capacity - FIRST_SLOT:
                self.slots[key] = FIRST_SLOT + len(self.slots)
            elif owners and 2 * self.aged(owners[0]) <= self.aged(key):
                loser = owners.pop(0)
                self.slots[key] = self.slots.pop(loser)
                del self.counts[loser], self.sightings[loser]


KEYS = ["", "a", "ü", "ccc", "d", "e", "f", "g"]


@pytest.mark.no_cover
@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.lists(st.lists(st.sampled_from(KEYS), max_size=12), max_size=3), st.integers(1, 9)), max_size=12
    ),
    st.integers(FIRST_SLOT, 7),
)
def test_maps_follow_the_rules_and_go_on_alike_after_a_reload(
    spans: list[tuple[list[list[str]], int]], capacity: int
) -> None:
    # Powers of two in time keep aging exact in both computations, so that equal counts are equal in both.
    ids, plain, now_s = IdMap(capacity, half_life_s=4), PlainMap(capacity, 4), 0
    for calls, waits in spans:
        loaded = IdMap.from_arrays(ids.to_arrays(), capacity, half_life_s=4)
        now_s += 4 * waits
        for keys in calls:
            plain.observe(keys)
            for one in (ids, loaded):
                one.observe(hashes(keys))
        mine, theirs = ids.at_boundary(now_s * 1000), loaded.at_boundary(now_s * 1000)
        plain.at_boundary(now_s)
        assert ids.lookup(hashes(KEYS)).tolist() == [
            plain.slots.get(key, COLD_SLOT if key else PADDING_SLOT) for key in KEYS
        ]
        assert mine.admitted.tolist() == theirs.admitted.tolist()
        assert mine.evicted.tolist() == theirs.evicted.tolist()
        for name, array in ids.to_arrays().items():
            np.testing.assert_array_equal(array, loaded.to_arrays()[name])


def test_an_id_costs_few_bytes() -> None:
    ids = IdMap(200_000)
    for _ in range(2):
        ids.observe(hashes(f"item-{number}" for number in range(150_000)))
    ids.at_boundary(0)
    assert len(ids) == 150_000
    # 16 of the hash, 8 of the count; the index and rows not in use add at most a third each.
    assert (ids._index.nbytes + ids._counts.nbytes + ids._seen_s.nbytes) / len(ids) < 48


def test_damaged_arrays_are_refused() -> None:
    capacities = {"item": 9, "shop": 9, "brand": 9, "category": 9}
    maps = IdMaps.empty(capacities)
    maps.item.observe(hashes(["a", "a", "b", "b"]))
    maps.item.at_boundary(0)
    arrays = dict(maps.to_arrays(counts=False))
    assert IdMaps.from_arrays(arrays, capacities).item.lookup(hashes(["b"])).tolist() == [3]
    twice = {name: np.repeat(arrays[name][:1], 2) for name in ("item.high", "item.low")}
    for damaged in (
        arrays | twice,
        arrays | {"item.high": arrays["item.high"][:1]},
        {key: array for key, array in arrays.items() if key != "shop.low"},
    ):
        with pytest.raises(ArtifactError):
            IdMaps.from_arrays(damaged, capacities)
    with pytest.raises(ArtifactError, match="2 ids does not fit a table of 3 rows"):
        IdMaps.from_arrays(arrays, capacities | {"item": 3})


def test_ids_in_other_rows_are_found_there_and_the_former_ones_no_more() -> None:
    ids = IdMap(FIRST_SLOT + 4)
    ids.observe(hashes(["a", "a", "a", "b", "b"]))
    ids.at_boundary(0)
    ids.replace_ids(np.array([2, 4]), hashes(["c", "a"]))
    assert ids.lookup(hashes(["a", "b", "c"])).tolist() == [4, 3, 2]
    assert len(ids) == 3
    ids.replace_ids(np.zeros(0, np.int64), hashes([]))
    assert ids.lookup(hashes(["a", "b", "c"])).tolist() == [4, 3, 2]


@pytest.mark.parametrize(
    ("slots", "keys"), [([2, 3], ["c"]), ([6], ["c"]), ([2], ["b"]), ([2, 3], ["c", "c"])], ids=str
)
def test_ids_that_do_not_fit_or_stand_in_two_rows_are_refused(slots: list[int], keys: list[str]) -> None:
    ids = IdMap(FIRST_SLOT + 4)
    ids.observe(hashes(["a", "a", "a", "b", "b"]))
    ids.at_boundary(0)
    with pytest.raises(ArtifactError, match="id map"):
        ids.replace_ids(np.array(slots), hashes(keys))


def test_a_larger_table_keeps_slots_and_counts() -> None:
    ids = IdMap(FIRST_SLOT + 1)
    ids.observe(hashes(["a", "a", "a", "b", "b"]))
    ids.at_boundary(0)
    grown = IdMap.from_arrays(ids.to_arrays(), FIRST_SLOT + 2)
    grown.at_boundary(1000)
    assert grown.lookup(hashes(["a", "b"])).tolist() == [FIRST_SLOT, FIRST_SLOT + 1]
