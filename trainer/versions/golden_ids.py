"""Ids of the golden lists: a loaded version must find them in the rows that they had when it was written.

Golden lists name rows, so their scores are the same whichever ids these rows have.

Source: docs/adr/0012-artifact-format.md.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.features.hash_index import Hashes
from trainer.features.id_maps import FIRST_SLOT, IdMaps
from trainer.versions.atomic_folder import Tensors
from trainer.versions.table_delta import Slots

_PREFIX = "ids"
_SLOTS = "slots"


def tensors_of(slots: Slots, id_maps: IdMaps) -> Tensors:
    """Return the ids of rows as tensors of the file `golden`, where earlier releases pass them over.

    Args:
        slots: Slots by table, padding and rows without an id included.
        id_maps: Ids of all rows.
    """
    own = {
        table: slots[table][(slots[table] >= FIRST_SLOT) & (slots[table] < FIRST_SLOT + len(id_map))]
        for table, id_map in id_maps.by_name().items()
    }
    found = id_maps.to_arrays(counts=False, slots=own) | {f"{table}.{_SLOTS}": each for table, each in own.items()}
    return {f"{_PREFIX}.{name}": array for name, array in found.items()}


def check(golden: Mapping[str, NDArray[np.generic]], id_maps: IdMaps) -> None:
    """Refuse id maps that have the ids of the golden lists in other rows; versions of earlier releases name no ids.

    Args:
        golden: Tensors of the file `golden`.
        id_maps: Id maps as loaded.

    Raises:
        ArtifactError: If an id is missing or stands in another row.
        KeyError: If a tensor is missing.
    """
    if not any(name.startswith(f"{_PREFIX}.") for name in golden):
        return
    for table, id_map in id_maps.by_name().items():
        high, low, slots = (golden[f"{_PREFIX}.{table}.{part}"] for part in ("high", "low", _SLOTS))
        if not high.shape == low.shape == slots.shape:
            raise ArtifactError(f"golden ids of table {table}: {high.shape}, {low.shape}, for {slots.shape} rows")
        found = id_map.lookup(Hashes(high.astype(np.uint64), low.astype(np.uint64)))
        num_moved = int(np.count_nonzero(found != slots))
        if num_moved:
            raise ArtifactError(
                f"golden ids of table {table}: {num_moved} of {len(slots)} are not in the rows that the trainer wrote"
            )
