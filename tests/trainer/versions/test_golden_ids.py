"""Ids of golden lists: found in their rows, or the id maps are refused."""

import numpy as np
import pytest

from stream.errors import ArtifactError
from trainer.features.collate import TABLES
from trainer.features.id_maps import COLD_SLOT, FIRST_SLOT, PADDING_SLOT, IdMaps
from trainer.versions.golden_ids import check, tensors_of

NUM = 6
CAPACITIES = dict.fromkeys(TABLES, FIRST_SLOT + NUM)
SLOTS = dict.fromkeys(TABLES, np.array([PADDING_SLOT, COLD_SLOT, FIRST_SLOT, FIRST_SLOT + 3, FIRST_SLOT + NUM]))


def maps(order: list[int]) -> IdMaps:
    """Return maps in which the ids 0 to 5 have the rows in this order."""
    hashes = np.array(order, np.uint64) + np.uint64(1)
    return IdMaps.from_arrays({f"{table}.{half}": hashes for table in TABLES for half in ("high", "low")}, CAPACITIES)


def test_ids_are_kept_of_rows_that_have_one() -> None:
    found = tensors_of(SLOTS, maps([0, 1, 2, 3, 4, 5]))
    assert {name.split(".")[1] for name in found} == set(TABLES)
    assert found["ids.item.slots"].tolist() == [FIRST_SLOT, FIRST_SLOT + 3]
    assert found["ids.item.high"].tolist() == found["ids.item.low"].tolist() == [1, 4]


@pytest.mark.parametrize(
    ("order", "num"), [([0, 1, 2, 4, 3, 5], 1), ([3, 1, 2, 0, 4, 5], 2), ([5, 4, 3, 2, 1, 0], 2), ([0, 1, 2], 1)]
)
def test_an_id_in_another_row_or_in_none_is_refused(order: list[int], num: int) -> None:
    kept = tensors_of(SLOTS, maps([0, 1, 2, 3, 4, 5]))
    with pytest.raises(ArtifactError, match=rf"golden ids of table item: {num} of 2 are not in the rows"):
        check(kept, maps(order))


def test_equal_maps_and_versions_that_name_no_ids_are_accepted() -> None:
    kept = tensors_of(SLOTS, maps([0, 1, 2, 3, 4, 5]))
    check(kept, maps([0, 1, 2, 3, 4, 5]))
    # Ids that no golden list shows are not compared.
    check(kept, maps([0, 2, 1, 3, 5, 4]))
    check({"scores": np.zeros(1)}, maps([5, 4, 3, 2, 1, 0]))
