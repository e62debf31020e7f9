"""Checkpoints: weights, optimiser, ids, offsets and counters of one mark as one unit, newest verifying one wins.

Source: TRAINING_SERVING.md 2.1, 2.2.
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
from trainer.versions import atomic_folder
from trainer.versions.atomic_folder import Failpoint, FileEntry, Tensors

KEEP = 3
_log = logging.getLogger(__name__)


class CursorState(msgspec.Struct, frozen=True):
    """Where reading one partition goes on."""

    next_offset: int
    watermark_ts: int


class State(msgspec.Struct, kw_only=True, frozen=True):
    """Everything of a checkpoint that is not a tensor.

    Attributes:
        batch_number: Batches cut so far; also keys every random draw.
        mark_number: Marks passed so far.
        version: Number of the newest version, 0 before the first.
        artifact: Address of that version.
        published_batch: `batch_number` when it was made.
        counters: Records read by fate.
        rejected_in_row: Batches in a row that the guard refused.
        environment: What bit-equality depends on: torch version, threads, CPU capability.
    """

    lineage: str
    term: int
    architecture: str
    feature_schema: str
    seed: int
    cursors: dict[str, CursorState]
    watermark_ts: int | None
    marked_ts: int
    holds: list[int]
    batch_number: int
    mark_number: int
    version: int
    artifact: str | None
    published_batch: int
    rejected_in_row: int
    image_space: str | None
    text_space: str | None
    counters: dict[str, int]
    prequential: dict[str, float]
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
    failpoint: Failpoint = atomic_folder.no_failpoint,
    keep: int = KEEP,
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`."""

    def manifest(entries: dict[str, FileEntry]) -> CheckpointManifest:
        return CheckpointManifest(state=state, files=entries)

    path = atomic_folder.write(folder, files, manifest, failpoint, prefix=f"{state.mark_number:012d}-")
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)
    return path


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, or None when the folder holds none at all.

    Raises:
        ArtifactError: If there are checkpoints and none verifies: starting afresh must be a decision.
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
