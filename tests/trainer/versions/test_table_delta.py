"""The tables of a full version with a delta put in equal the later tables."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ArtifactError
from tests.trainer.lists import hashes
from trainer.features.id_maps import FIRST_SLOT, IdMaps
from trainer.versions import table_delta
from trainer.versions.atomic_folder import Tensors

CAPACITIES = {"item": 9, "shop": 5, "brand": 5, "category": 5}
KEYS = [f"k{number}" for number in range(30)]
Rows = dict[str, np.ndarray]
Slots = dict[str, np.ndarray]


class Tables:
    """Tables in training: ids come and leave at boundaries, rows change, and what changed since a start is known."""

    def __init__(self) -> None:
        self.id_maps = IdMaps.empty(CAPACITIES, min_sightings=1, half_life_s=60)
        self.rows: Rows = {table: np.zeros((size, 2), np.float32) for table, size in CAPACITIES.items()}
        self.changed: dict[str, set[int]] = {table: set() for table in CAPACITIES}
        self.now_ts = 0

    def change(self, draw: Callable[[st.SearchStrategy[object]], object]) -> None:
        self.now_ts += 60_000
        for table, id_map in self.id_maps.by_name().items():
            id_map.observe(hashes(draw(st.lists(st.sampled_from(KEYS), max_size=6))))  # type: ignore[arg-type]
            admitted = id_map.at_boundary(self.now_ts).admitted
            learned = draw(st.sets(st.integers(1, FIRST_SLOT + len(id_map) - 1), max_size=3))
            for slot in {*admitted.tolist(), *learned}:  # type: ignore[misc]
                self.rows[table][slot] += slot + self.now_ts
                self.changed[table].add(slot)

    def slots(self) -> Slots:
        return {table: np.array(sorted(own), np.int64) for table, own in self.changed.items()}

    def delta(self) -> dict[str, Tensors]:
        slots = self.slots()
        return table_delta.to_files({table: self.rows[table][own] for table, own in slots.items()}, self.id_maps, slots)


def copied(rows: Mapping[str, np.ndarray], id_maps: IdMaps) -> tuple[Rows, IdMaps]:
    arrays = id_maps.to_arrays(counts=False)
    return {table: own.copy() for table, own in rows.items()}, IdMaps.from_arrays(arrays, CAPACITIES)


def check_equal(found: tuple[Rows, IdMaps], expected: tuple[Rows, IdMaps]) -> None:
    for table, rows in expected[0].items():
        np.testing.assert_array_equal(found[0][table], rows)
    arrays = found[1].to_arrays(counts=False)
    for name, array in expected[1].to_arrays(counts=False).items():
        np.testing.assert_array_equal(arrays[name], array)
    for table, id_map in expected[1].by_name().items():
        assert found[1].by_name()[table].lookup(hashes(KEYS)).tolist() == id_map.lookup(hashes(KEYS)).tolist()


@pytest.mark.no_cover
@given(st.integers(0, 3), st.lists(st.booleans(), min_size=1, max_size=4), st.data())
def test_put_into_the_full_version_or_an_earlier_delta(before: int, through: list[bool], data: st.DataObject) -> None:
    own = Tables()
    for _ in range(before):
        own.change(data.draw)
    full = near = copied(own.rows, own.id_maps)
    own.changed = {table: set() for table in CAPACITIES}
    for is_near in through:
        own.change(data.draw)
        files = own.delta()
        for table, slots in table_delta.slots_of(files).items():
            assert slots.tolist() == own.slots()[table].tolist()
        kept = copied(*near)
        found = table_delta.put_in(*(near if is_near else full), files, in_place=False)
        check_equal(found, (own.rows, own.id_maps))
        check_equal(near, kept)
        near = found
    check_equal(table_delta.put_in(*full, own.delta(), in_place=True), (own.rows, own.id_maps))


Files = dict[str, Rows]


def without(file: str, name: str) -> Callable[[Files], object]:
    return lambda files: files[file].pop(name)


def put(file: str, name: str, values: object) -> Callable[[Files], object]:
    return lambda files: files[file].update({name: np.array(values)})


def repeat_first_id(files: Files) -> None:
    for half in ("item.high", "item.low"):
        files["ids"][half][1] = files["ids"][half][0]


@pytest.mark.parametrize(
    "change",
    [
        without("rows", "item.rows"),
        without("ids", "shop.places"),
        put("rows", "more.rows", [1.0]),
        put("rows", "item.rows", np.ones((2, 3), np.float32)),
        put("rows", "item.rows", np.ones((1, 2), np.float32)),
        put("rows", "item.places", [2, 9]),
        put("rows", "item.places", [3, 2]),
        put("ids", "item.places", [0, 3]),
        put("ids", "item.places", [0, 8]),
        put("ids", "item.low", [1, 2, 3]),
        repeat_first_id,
    ],
    ids=[
        "no rows",
        "no places",
        "surplus",
        "width",
        "number",
        "beyond the table",
        "order",
        "gap",
        "beyond the ids",
        "halves",
        "one id twice",
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[[Files], object]) -> None:
    own = Tables()
    own.id_maps.item.observe(hashes(["a", "b"]))
    own.id_maps.item.at_boundary(0)
    own.changed["item"] = {2, 3}
    files = {file: dict(arrays) for file, arrays in own.delta().items()}
    full = copied(own.rows, own.id_maps)

    def put_in() -> None:
        table_delta.slots_of(files)
        table_delta.put_in(*full, files, in_place=False)

    put_in()
    change(files)
    with pytest.raises(ArtifactError, match=r"delta|id map"):
        put_in()
