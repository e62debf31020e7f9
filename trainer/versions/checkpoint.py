"""Checkpoints: weights, optimizer, ids, offsets and counters of one boundary as one unit; the newest whole one wins.

A full checkpoint holds all rows of the id tables that are in use, a delta those that changed since a full one. The
rest, such as dense weights, is in both.

Source: docs/training.md.
"""

import logging
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from stream.errors import ArtifactError
from stream.failpoints import Failpoint, no_failpoint
from trainer.feed.batches import Position
from trainer.versions import atomic_folder, delta
from trainer.versions.atomic_folder import FileEntry, Tensors, WriteError

KEEP = 3
_FORMAT = 2
_NAME = re.compile("[0-9]{12}-[0-9a-f]{64}")
_BY_PLACE = {
    "rows": ("rows", "accumulators", "changed_s"),
    "ids": ("high", "low", "counts", "seen_s"),
}
_log = logging.getLogger(__name__)


class Published(msgspec.Struct, kw_only=True, frozen=True):
    """The newest version of a lineage.

    Attributes:
        version: Its number, 0 before the first.
        artifact: Its address.
        base: Address of the full version that the next one may be a delta of: its own, or that of its base.
        batch_number: Batches seen when it was written.
        norm: Norm of its dense weights; None of a version of an earlier release.
    """

    version: int = 0
    artifact: str | None = None
    base: str | None = None
    batch_number: int = 0
    norm: float | None = None


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


class Origin(msgspec.Struct, kw_only=True, frozen=True):
    """The version of a lineage whose weights a new lineage started from.

    Attributes:
        artifact: Its address.
        boundary_ts: The boundary at which it was written, in watermark time: it has learned the sessions before.
    """

    lineage: str
    version: int
    artifact: str
    boundary_ts: int

    def __str__(self) -> str:
        return f"{self.lineage}:{self.version}"


class SkippedRange(msgspec.Struct, kw_only=True, frozen=True):
    """A range of the log that no later weights learn, since only versions that were rolled back had learned it.

    Attributes:
        from_offsets: Partition to the first offset of the range.
        until_offsets: Partition to the first offset behind it.
        from_ts: The boundary of the last good version, in watermark time; None for the beginning of the log.
        until_ts: The boundary at which the range ends: sessions with an earlier watermark are left out.
    """

    from_offsets: dict[int, int]
    until_offsets: dict[int, int]
    from_ts: int | None
    until_ts: int


class State(msgspec.Struct, kw_only=True, frozen=True):
    """The part of a checkpoint that is not a tensor.

    Attributes:
        position: Cursors and watermark in the log.
        boundary_number: Boundaries passed so far.
        settings: Settings of the model and of learning, by dotted key.
        adopted: Learning settings that were changed, oldest first.
        origin: The version that the lineage started from; None for fresh weights.
        skipped: Ranges that were left out after rollbacks, oldest first.
        learned_ranges: Numbers of the ranges of the quarantine that were learned after all.
        environment: Conditions of bit-equal weights: torch version, threads, CPU capability.
    """

    lineage: str
    term: int
    model: str
    feature_schema: str
    settings: dict[str, object]
    adopted: tuple[Adoption, ...] = ()
    origin: Origin | None = None
    skipped: tuple[SkippedRange, ...] = ()
    learned_ranges: tuple[int, ...] = ()
    position: Position
    boundary_number: int
    published: Published
    learning: LearningState
    image_space: str | None
    text_space: str | None
    environment: dict[str, str]


class CheckpointManifest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """State and files of one checkpoint.

    Attributes:
        base: Folder of the full checkpoint that a delta needs; None for a full one.
        num_deltas: Deltas written since that full one, this one included.
    """

    format: int = _FORMAT
    state: State
    base: str | None = None
    num_deltas: int = 0
    files: dict[str, FileEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A full checkpoint, as its deltas need it.

    Attributes:
        name: Name of its folder.
        boundary_ts: Its boundary in watermark time; None before the first session of the log.
        num_deltas: Deltas written since.
    """

    name: str
    boundary_ts: int | None
    num_deltas: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory, whole, and the full checkpoint that the next deltas may need."""

    state: State
    files: Mapping[str, Tensors]
    base: Base


def save(
    folder: Path,
    state: State,
    files: Mapping[str, Tensors],
    failpoint: Failpoint = no_failpoint,
    *,
    keep: int = KEEP,
    base: Base | None = None,
    needed: Collection[str] | None = (),
) -> Base:
    """Write a checkpoint, remove old ones, and return the full checkpoint of the next deltas.

    The newest `keep` and those of `needed` stay, with the full ones that they need. If the newest all are deltas of one
    full checkpoint, the newest of the one before stays too.

    Args:
        folder: Folder of the checkpoints.
        state: Everything that is no tensor.
        files: File name to its tensors; those of a delta hold the rows that changed since `base`.
        failpoint: Called with the name of each step, for crash tests.
        keep: Newest checkpoints that stay.
        base: The full checkpoint that the files need; None if they are a full one.
        needed: Addresses of the versions whose checkpoints stay; None if that is unknown, so all stay.

    Raises:
        WriteError: If the file system refuses the checkpoint; the earlier ones stay.
    """

    def manifest(entries: dict[str, FileEntry]) -> CheckpointManifest:
        if base is None:
            return CheckpointManifest(state=state, files=entries)
        return CheckpointManifest(state=state, files=entries, base=base.name, num_deltas=base.num_deltas + 1)

    path = atomic_folder.write(folder, files, manifest, failpoint, prefix=f"{state.boundary_number:012d}-")
    if needed is not None:
        found = _newest_first(folder)
        for old in set(found) - _needed(found, keep) - _with_bases(_by_version(found, needed).values()):
            # A folder that cannot be removed is tried again after the next checkpoint.
            shutil.rmtree(old, ignore_errors=True)
    if base is None:
        return Base(name=path.name, boundary_ts=state.position.boundary_ts)
    return replace(base, num_deltas=base.num_deltas + 1)


def _needed(newest_first: list[Path], keep: int) -> set[Path]:
    """Return the newest `keep`, the newest of another full checkpoint, and what they need."""
    kept = newest_first[:keep]
    bases = {_base_of(path) for path in kept}
    if len(bases) == 1 and not bases & set(kept[:1]):
        # If one full checkpoint is damaged, all its deltas are lost with it.
        kept += [path for path in newest_first[keep:] if _base_of(path) not in bases][:1]
    return _with_bases(kept)


def of_version(folder: Path, address: str) -> Path | None:
    """Return the checkpoint that was written with a version, or None; tensors are not read."""
    return _by_version(_newest_first(folder) if folder.is_dir() else [], {address}).get(address)


def clean(folder: Path, needed: Collection[str]) -> int:
    """Remove the checkpoints that were not written with these versions; return the highest boundary number that stays.

    Raises:
        WriteError: If the file system refuses; it can be called again.
    """
    found = _newest_first(folder) if folder.is_dir() else []
    kept = _with_bases(_by_version(found, needed).values())
    try:
        for path in found:
            if path not in kept:
                atomic_folder.remove(path)
    except OSError as error:
        raise WriteError(f"{folder}: a checkpoint is not removed: {error}") from error
    return max((int(path.name[:12]) for path in kept), default=0)


def _by_version(newest_first: list[Path], addresses: Collection[str]) -> dict[str | None, Path]:
    """Return the checkpoints that were written with these versions, by address: the oldest with the same weights."""
    found: dict[str | None, Path] = {}
    for path in newest_first:
        try:
            state = _manifest(path).state
        except ArtifactError:
            continue
        address = state.published.artifact
        # A later one that names the version holds other weights, or waiting sessions that came after it.
        if address in addresses and state.learning.batch_number == state.published.batch_number:
            found[address] = path
    return found


def _with_bases(paths: Iterable[Path]) -> set[Path]:
    return {each for path in paths for each in (path, _base_of(path))}


def _base_of(path: Path) -> Path:
    """Return the full checkpoint that a checkpoint needs, itself if it is one or cannot be read."""
    try:
        return path.with_name(_manifest(path).base or path.name)
    except (ArtifactError, ValueError):
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


def newest_state(folder: Path) -> State | None:
    """Return the state of the newest checkpoint whose manifest is whole, or None; tensors are not read."""
    for path in _newest_first(folder) if folder.is_dir() else []:
        try:
            return _manifest(path).state
        except ArtifactError as error:
            _log.warning("checkpoint refused, trying the one before: %s", error)
    return None


def load(path: Path) -> Checkpoint:
    """Return one checkpoint, a delta with the full checkpoint that it needs.

    Raises:
        ArtifactError: If it, or the full one, is incomplete or damaged.
    """
    manifest = _manifest(path)
    files = atomic_folder.read_files(path, manifest.files)
    if manifest.base is None:
        own = Base(name=path.name, boundary_ts=manifest.state.position.boundary_ts)
        return Checkpoint(manifest.state, files, own)
    base_path = path.with_name(manifest.base)
    base = _manifest(base_path)
    if base.base is not None:
        raise ArtifactError(f"{path.name}: needs {manifest.base}, which is no full checkpoint")
    full = atomic_folder.read_files(base_path, base.files)
    whole = {name: delta.put_in(full[name], files[name], columns) for name, columns in _BY_PLACE.items()}
    found = Base(name=manifest.base, boundary_ts=base.state.position.boundary_ts, num_deltas=manifest.num_deltas)
    return Checkpoint(manifest.state, {**files, **whole}, found)


def _manifest(path: Path) -> CheckpointManifest:
    raw = atomic_folder.read_manifest(path)
    try:
        manifest = msgspec.json.decode(raw, type=CheckpointManifest)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path.name}/{atomic_folder.MANIFEST}: {error}") from error
    if manifest.format != _FORMAT:
        raise ArtifactError(f"{path.name}: format {manifest.format}, this release reads format {_FORMAT}")
    if manifest.base is not None and not _NAME.fullmatch(manifest.base):
        raise ArtifactError(f"{path.name}: base '{manifest.base[:80]}' is no name of a checkpoint")
    return manifest


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name[:12].isdigit()), reverse=True)
