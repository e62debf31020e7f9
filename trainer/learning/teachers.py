"""Teachers of a page ranker: frozen versions, each of which scores the items of its type.

Source: SMAR, arXiv 2510.16803; docs/training.md, "SMAR".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch

from stream.errors import ConfigError
from trainer.features import Batch, Examples
from trainer.features.item_types import ITEM_TYPES, item_types
from trainer.learning.former import FormerVersion
from trainer.models.batch import PageLabels
from trainer.versions import artifact
from trainer.versions.artifact import LoadedVersion
from trainer.versions.signature import NO_KEYS, VersionKeys


class Teachers:
    """The teachers of one page ranker.

    Raises:
        ConfigError: If a version learned from items of all types, or two from the same type.
    """

    def __init__(self, versions: Sequence[LoadedVersion], device: torch.device) -> None:
        self._by_type: dict[str, FormerVersion] = {}
        for version in versions:
            name = version.manifest.learning.get("item_type")
            where = f"teacher {version.sha256} of lineage {version.manifest.lineage}"
            if not isinstance(name, str) or name not in ITEM_TYPES:
                raise ConfigError(f"{where}: learning.item_type is {name!r}, expected one of {', '.join(ITEM_TYPES)}")
            if name in self._by_type:
                raise ConfigError(f"{where}: another teacher has the type {name} as well")
            self._by_type[name] = FormerVersion(version, device)

    @classmethod
    def load(
        cls, folder: Path, addresses: Sequence[str], device: torch.device, keys: VersionKeys = NO_KEYS
    ) -> Self | None:
        """Return the teachers at these addresses; None without any.

        Raises:
            ArtifactError: If a version is missing, damaged or not signed.
            ConfigError: As the class.
        """
        versions = [artifact.load(folder, address, keys=keys) for address in addresses]
        return cls(versions, device) if versions else None

    def labels(self, examples: Examples, batch: Batch, schema: int) -> PageLabels:
        """Return the scores of the teachers, and no grade; an item whose type has no teacher gets no score.

        Args:
            examples: B lists.
            batch: Batch of these lists, of a feature schema.
            schema: Number of that schema.
        """
        types = item_types(batch, schema)
        found = PageLabels.none(types)
        every = np.ones(len(examples), np.bool_)
        for name, version in self._by_type.items():
            scores = version.scores(examples, every, types.shape, item_type=name)
            own = batch.cand_mask & (types == ITEM_TYPES.index(name))
            found.teacher[own] = scores[own]
        return found
