"""Rows and ids of a version that changed since a full version, and the tables of that version with them put in.

Source: docs/training.md, "Versions".
"""

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.features.hash_index import Hashes
from trainer.features.id_maps import FIRST_SLOT, IdMap, IdMaps
from trainer.versions.atomic_folder import Tensors
from trainer.versions.delta import PLACES, checked_places

Rows = Mapping[str, NDArray[np.float32]]
Slots = Mapping[str, NDArray[np.int64]]

_COLUMNS = {"rows": ("rows", PLACES), "ids": ("high", "low", PLACES)}


def to_files(rows: Tensors, id_maps: IdMaps, slots: Slots) -> dict[str, Tensors]:
    """Return the files `rows` and `ids` of a delta.

    Args:
        rows: Table to the rows of `slots`, in their order.
        id_maps: Ids of all rows.
        slots: Table to the slots that changed, ascending.
    """
    own = {table: changed[changed >= FIRST_SLOT] for table, changed in slots.items()}
    return {
        "rows": {f"{table}.rows": rows[table] for table in slots}
        | {f"{table}.{PLACES}": changed for table, changed in slots.items()},
        "ids": id_maps.to_arrays(counts=False, slots=own)
        | {f"{table}.{PLACES}": changed - FIRST_SLOT for table, changed in own.items()},
    }


def slots_of(files: Mapping[str, Tensors]) -> dict[str, NDArray[np.int64]]:
    """Return the slots that the files of a delta hold, by table.

    Raises:
        ArtifactError: If a file lacks an array, or holds a surplus one.
    """
    tables = IdMaps.__dataclass_fields__
    for file, columns in _COLUMNS.items():
        expected = {f"{table}.{column}" for table in tables for column in columns}
        if set(files[file]) != expected:
            raise ArtifactError(f"delta: {file} holds {sorted(files[file])}, expected {sorted(expected)}")
    return {
        table: np.union1d(_places(files, "rows", table), _places(files, "ids", table) + FIRST_SLOT) for table in tables
    }


def put_in(
    rows: Rows, id_maps: IdMaps, files: Mapping[str, Tensors], *, in_place: bool
) -> tuple[dict[str, NDArray[np.float32]], IdMaps]:
    """Return the tables and ids of a full version after a delta.

    Args:
        rows: Table to all its rows, as of the full version or of one of its deltas that changed no other slots.
        id_maps: Ids of these rows.
        files: Files of the delta, as `slots_of` accepts them.
        in_place: Whether rows and ids may be written over.

    Raises:
        ArtifactError: If rows or ids do not fit the tables.
    """
    found: dict[str, NDArray[np.float32]] = {}
    maps: dict[str, IdMap] = {}
    for table, id_map in id_maps.by_name().items():
        changed = files["rows"][f"{table}.rows"].astype(np.float32)
        slots = checked_places(table, _places(files, "rows", table), len(changed), len(rows[table]))
        if changed.shape[1:] != rows[table].shape[1:] or (slots >= len(rows[table])).any():
            raise ArtifactError(f"delta: rows {changed.shape} do not fit the table {table} of {rows[table].shape}")
        found[table] = rows[table] if in_place else rows[table].copy()
        found[table][slots] = changed
        ids = Hashes(*(files["ids"][f"{table}.{half}"].astype(np.uint64) for half in ("high", "low")))
        places = checked_places(f"{table}.ids", _places(files, "ids", table), len(ids.high), len(id_map))
        maps[table] = id_map if in_place else deepcopy(id_map)
        maps[table].replace_ids(places + FIRST_SLOT, ids)
    return found, IdMaps(**maps)


def _places(files: Mapping[str, Tensors], file: str, table: str) -> NDArray[np.int64]:
    return files[file][f"{table}.{PLACES}"].astype(np.int64)
