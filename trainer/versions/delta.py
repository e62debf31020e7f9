"""Deltas: the rows of tables that changed since a full copy, and the full copy with them put in.

Source: docs/training.md, "Checkpoints".
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError
from trainer.versions.atomic_folder import Tensors

PLACES = "places"
"""Array of a table in a delta: the places of its rows in the full copy, ascending."""


def put_in(base: Tensors, delta: Tensors, columns: Collection[str]) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a full copy after a delta.

    Args:
        base: Arrays named `<table>.<column>`.
        delta: Arrays of the same names, and `<table>.places`.
        columns: Columns that a delta holds by place; the delta has the others in full.

    Raises:
        ArtifactError: If a table or column is missing, or the rows have a gap, another width or another type.
    """
    found = {name: array for name, array in delta.items() if not name.endswith(f".{PLACES}")}
    for name, changed in delta.items():
        table, _, column = name.partition(".")
        if column not in columns:
            continue
        places, full = delta.get(f"{table}.{PLACES}"), base.get(name)
        if places is None or full is None:
            raise ArtifactError(f"delta: {name} has no places or no full copy")
        found[name] = _put(name, full, changed, places)
    return found


def _put(
    name: str, full: NDArray[np.generic], changed: NDArray[np.generic], places: NDArray[np.generic]
) -> NDArray[np.generic]:
    if changed.dtype != full.dtype or changed.shape[1:] != full.shape[1:]:
        raise ArtifactError(
            f"delta: {name} of {changed.dtype} {changed.shape} does not fit the full copy of {full.dtype} {full.shape}"
        )
    at = checked_places(name, places, len(changed), len(full))
    num_new = np.count_nonzero(at >= len(full))
    result = np.concatenate([full, np.zeros((num_new, *full.shape[1:]), full.dtype)])
    result[at] = changed
    return result


def checked_places(name: str, places: NDArray[np.generic], num_rows: int, size: int) -> NDArray[np.int64]:
    """Return the places of so many rows, checked against a full copy of `size` rows.

    Raises:
        ArtifactError: If they are not ascending, are more or fewer than the rows, or leave a gap after the full copy.
    """
    at = places.astype(np.int64)
    new = at[at >= size]
    if (
        at.shape != (num_rows,)
        or (np.diff(at) <= 0).any()
        or (at < 0).any()
        or not np.array_equal(new, np.arange(size, size + len(new)))
    ):
        raise ArtifactError(f"delta: the places of {num_rows} rows of {name} do not fit a full copy of {size} rows")
    return at
