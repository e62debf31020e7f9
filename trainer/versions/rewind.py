"""The state that training goes back to after a rollback, and the sessions that it leaves out then.

Source: docs/rollout.md, "After a rollback".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from stream.errors import ArtifactError, ConfigError
from trainer.feed.batches import Position
from trainer.versions import artifact, checkpoint
from trainer.versions.checkpoint import Checkpoint, Origin, SkippedRange
from trainer.versions.registry import Rewind, Version

_BAD: Final = frozenset({"rolled_back", "rejected", "quarantined"})


def find_state(
    demand: Rewind, lineage: str, versions: Sequence[Version], checkpoints: Path, origin: Origin | None
) -> Checkpoint | Origin | None:
    """Return the state that training goes back to: a checkpoint, a version to start from, or None for fresh weights.

    Args:
        demand: The demand of the rollback.
        lineage: Name of the lineage.
        versions: Its versions.
        checkpoints: Folder of its checkpoints.
        origin: The version that a warm start names; None takes the one that the lineage started from.

    Raises:
        ConfigError: If the checkpoint is missing or damaged; the message says how to go on without it.
    """
    newest = checkpoint.newest_state(checkpoints)
    if origin is None and newest is not None:
        origin = newest.origin
    if demand.to == 0:
        return origin if origin is not None and origin.lineage != lineage else None
    good = next(version for version in versions if version.version == demand.to)
    path = checkpoint.of_version(checkpoints, good.artifact)
    why = "is not there"
    if path is not None:
        try:
            return checkpoint.load(path)
        except ArtifactError as error:
            why = f"is damaged: {error}"
    if origin is not None and (origin.lineage, origin.version) == (lineage, demand.to):
        return origin
    raise ConfigError(
        f"lineage {lineage}: training has to go back to version {demand.to}, whose checkpoint {why}; move what is"
        f" in {checkpoints} away and start with --warm-start {lineage}:{demand.to}"
    )


def skipped_range(demand: Rewind, versions: Sequence[Version], artifacts: Path, start: Position) -> SkippedRange | None:
    """Return the range between a position and the boundary of the newest version that was found bad.

    Such a version is rolled back, rejected or quarantined.

    Args:
        demand: The demand of the rollback.
        versions: Versions of the lineage.
        artifacts: Folder of the versions.
        start: Position of the state that training goes back to.

    Returns:
        None if no such version has learned anything behind the position.

    Raises:
        ConfigError: If the version that tells where the range ends cannot be read; the message names another mode.
    """
    bad = next((each for each in reversed(versions) if each.status in _BAD), None)
    if bad is None or bad.version < demand.to:
        return None
    try:
        manifest = artifact.read_manifest(artifacts, bad.artifact)
    except ArtifactError as error:
        raise ConfigError(
            f"lineage {bad.lineage}: the range of version {bad.version} cannot be left out: {error};"
            f" shelfwise rollout rewind {bad.lineage} replay learns it again"
        ) from error
    if start.boundary_ts is not None and manifest.boundary_ts <= start.boundary_ts:
        return None
    return SkippedRange(
        from_offsets={partition: cursor.next_offset for partition, cursor in start.cursors.items()},
        until_offsets={partition: cursor.next_offset for partition, cursor in manifest.cursors.items()},
        from_ts=start.boundary_ts,
        until_ts=manifest.boundary_ts,
    )


def evidence(demand: Rewind, parent: str | None, start: Position, skipped: SkippedRange | None) -> dict[str, object]:
    """Return the numbers of the event: where training goes on, from which version, and what it leaves out."""
    return {
        "mode": demand.mode,
        "parent": parent,
        "boundary_ts": start.boundary_ts,
        "offsets": {str(partition): cursor.next_offset for partition, cursor in start.cursors.items()},
        "skipped": msgspec.to_builtins(skipped, str_keys=True),
    }
