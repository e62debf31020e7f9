"""Checkpoints: weights, optimizer, ids, offsets and counters of one boundary as one unit; the newest whole one wins.

Source: docs/training.md.
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.errors import ArtifactError
from stream.failpoints import Failpoint, no_failpoint
from trainer.feed.batches import Position
from trainer.versions import atomic_folder
from trainer.versions.atomic_folder import FileEntry, Tensors

KEEP = 3
_log = logging.getLogger(__name__)


class Published(msgspec.Struct, kw_only=True, frozen=True):
    """The newest version of a lineage.

    Attributes:
        version: Its number, 0 before the first.
        artifact: Its address.
        batch_number: Batches seen when it was written.
    """

    version: int = 0
    artifact: str | None = None
    batch_number: int = 0


class LearningState(msgspec.Struct, kw_only=True, frozen=True):
    """Counters of a learner.

    Attributes:
        batch_number: Batches seen so far, refused and held ones included.
        num_steps: Steps that the optimizers made.
        rejected_in_row: Newest batches in a row that were refused.
        counters: Records by outcome.
        prequential: Sums of the prequential evaluation.
        shuffled: Sums of the evidence from shuffled lists.
    """

    batch_number: int
    num_steps: int
    rejected_in_row: int
    counters: dict[str, int]
    prequential: dict[str, float]
    shuffled: dict[str, float] = {}


class Adoption(msgspec.Struct, kw_only=True, frozen=True):
    """A learning setting that an operator changed in a lineage under training.

    Attributes:
        setting: Key of the setting.
        old, new: Its values before and after.
        batch_number: Batches that were trained under the old value.
    """

    setting: str
    old: object
    new: object
    batch_number: int


class State(msgspec.Struct, kw_only=True, frozen=True):
    """The part of a checkpoint that is not a tensor.

    Attributes:
        position: Cursors and watermark in the log.
        boundary_number: Boundaries passed so far.
        settings: Settings of the model and of learning, by dotted key.
        adopted: Learning settings that were changed, oldest first.
        environment: Conditions of bit-equal weights: torch version, threads, CPU capability.
    """

    lineage: str
    term: int
    model: str
    feature_schema: str
    settings: dict[str, object]
    adopted: tuple[Adoption, ...] = ()
    position: Position
    boundary_number: int
    published: Published
    learning: LearningState
    image_space: str | None
    text_space: str | None
    environment: dict[str, str]


class CheckpointManifest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """State and files of one checkpoint."""

    format: int = 1
    state: State
    files: dict[str, FileEntry]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory."""

    state: State
    files: Mapping[str, Mapping[str, NDArray[np.generic]]]


def save(
    folder: Path,
    state: State,
    files: Mapping[str, Tensors],
    failpoint: Failpoint = no_failpoint,
    keep: int = KEEP,
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Raises:
        WriteError: If the file system refuses the checkpoint; the earlier ones stay.
    """

    def manifest(entries: dict[str, FileEntry]) -> CheckpointManifest:
        return CheckpointManifest(state=state, files=entries)

    path = atomic_folder.write(folder, files, manifest, failpoint, prefix=f"{state.boundary_number:012d}-")
    for old in _newest_first(folder)[keep:]:
        # A folder that cannot be removed is tried again after the next checkpoint.
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, or None if the folder holds no checkpoint.

    Raises:
        ArtifactError: If there are checkpoints and none verifies: a fresh start must be a decision.
    """
    found = _newest_first(folder) if folder.is_dir() else []
    for path in found:
        try:
            return load(path)
        except ArtifactError as error:
            _log.warning("checkpoint refused, trying the one before: %s", error)
    if found:
        raise ArtifactError(f"{folder}: none of {len(found)} checkpoints verifies")
    return None


def load(path: Path) -> Checkpoint:
    """Return one checkpoint.

    Raises:
        ArtifactError: If it is incomplete or damaged.
    """
    raw = atomic_folder.read_manifest(path)
    try:
        manifest = msgspec.json.decode(raw, type=CheckpointManifest)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path.name}/{atomic_folder.MANIFEST}: {error}") from error
    return Checkpoint(manifest.state, atomic_folder.read_files(path, manifest.files))


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name[:12].isdigit()), reverse=True)
