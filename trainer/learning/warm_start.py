"""Weights and id tables taken over from a version, for a lineage with tables of other sizes.

Source: docs/training.md, "Start from a version of another lineage".
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.configs import LearningSettings
from trainer.features.id_maps import COLD_SLOT, FIRST_SLOT, IdMap, IdMaps
from trainer.versions.artifact import ROWS_PREFIX, LoadedVersion


def take_over(
    version: LoadedVersion, params: Mapping[str, Tensor], capacities: Mapping[str, int], learning: LearningSettings
) -> IdMaps:
    """Write the weights of a version over those of the same model, and return the maps of the ids that came along.

    Where a table is too small for all ids, those come along whose rows lie farthest from the cold row. The others are
    scored by the cold row from now on, so the sum of the squared changes in embeddings is the least.

    Args:
        version: The version, of the same model and widths.
        params: Weights by name, written in place; tables have the sizes of `capacities`.
        capacities: Rows of each id table.
        learning: An id counts as seen `min_sightings` times at the boundary of the version.
    """
    maps: dict[str, IdMap] = {}
    with torch.no_grad():
        for name, weight in params.items():
            if not name.startswith(ROWS_PREFIX):
                weight.copy_(version.params[name])
        for table, id_map in version.id_maps.by_name().items():
            rows, own = version.params[f"{ROWS_PREFIX}{table}"], params[f"{ROWS_PREFIX}{table}"]
            slots = _farthest(rows, len(id_map), capacities[table] - FIRST_SLOT)
            own[:FIRST_SLOT] = rows[:FIRST_SLOT].to(own.device)
            own[FIRST_SLOT : FIRST_SLOT + len(slots)] = rows[torch.from_numpy(slots)].to(own.device)
            maps[table] = id_map.taken_over(
                slots,
                capacities[table],
                seen_s=version.manifest.boundary_ts // 1000,
                min_sightings=learning.min_sightings,
                half_life_s=learning.sighting_half_life_s,
            )
    return IdMaps(**maps)


def _farthest(rows: Tensor, num_ids: int, room: int) -> NDArray[np.int64]:
    """Return the slots of at most `room` ids, ascending: the far ones; of equally far ones, those of lower slots."""
    slots = np.arange(FIRST_SLOT, FIRST_SLOT + num_ids)
    if num_ids <= room:
        return slots
    distance = (rows[FIRST_SLOT : FIRST_SLOT + num_ids].double() - rows[COLD_SLOT]).square().sum(dim=1).numpy()
    return np.sort(slots[np.lexsort((slots, -distance))[:room]])
