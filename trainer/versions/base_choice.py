"""The choice between a full version and a delta, and what the delta holds.

Source: docs/training.md, "Versions".
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from stream.errors import ArtifactError
from trainer.versions import artifact
from trainer.versions.artifact import ROWS_PREFIX, Manifest
from trainer.versions.signature import NO_KEYS, VersionKeys
from trainer.versions.table_delta import Slots

_ALIKE: Final = (
    "lineage",
    "model",
    "config",
    "learning",
    "architecture",
    "feature_schema",
    "capacities",
    "code_version",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChoice:
    """The rule by which the next version is a delta or a full version.

    Attributes:
        max_share: Largest share of the rows of all tables that a delta may hold; 0 = no deltas.
        keep_versions: Newest versions that stay on disk.
        rows_dtype: Number format of the rows.
        keys: Keys of signatures. A base must have the signature of the key that signs: another one is refused when its
            key is removed, and its deltas with it.
    """

    max_share: float
    keep_versions: int
    rows_dtype: str
    keys: VersionKeys = NO_KEYS

    def changed(
        self, folder: Path, address: str | None, head: Manifest, changed_since: Callable[[int], Slots]
    ) -> Slots | None:
        """Return the slots that a delta of the version at `address` holds, or None if the next version must be full.

        It must be if there is no such version or it cannot be read, if it is as old as those that are retired, if a
        setting or the release is another one, or if too many rows have changed.

        Args:
            folder: Folder of the versions.
            address: Address of a full version of the same run of learning.
            head: Manifest of the next version.
            changed_since: Returns the slots by table that changed since a boundary, in ms of watermark time.
        """
        if not self.max_share or address is None:
            return None
        try:
            base = artifact.read_manifest(folder, address, self.keys.signing)
        except ArtifactError as error:
            _log.warning("lineage %s: version %d is written in full: %s", head.lineage, head.version, error)
            return None
        is_old = head.version - base.version >= self.keep_versions
        if base.base is not None or is_old or _identity(base) != _identity(head):
            return None
        dtypes = {base.files["rows"].tensors[f"{ROWS_PREFIX}{table}"].dtype for table in base.capacities}
        if dtypes != {self.rows_dtype}:
            return None
        found = changed_since(base.boundary_ts)
        share = sum(map(len, found.values())) / sum(head.capacities.values())
        return found if share <= self.max_share else None


def _identity(manifest: Manifest) -> bytes:
    """Return what must agree, in the form in which a manifest is written: there a tuple is a list."""
    return msgspec.json.encode({name: getattr(manifest, name) for name in _ALIKE}, order="sorted")
