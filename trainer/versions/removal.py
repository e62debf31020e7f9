"""Removal of versions from disk, and the full versions that must stay because others need them.

Source: docs/training.md, "Versions".
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from stream.errors import ArtifactError
from stream.files import remove_abandoned
from trainer.versions import artifact, atomic_folder


def bases(folder: Path, addresses: Iterable[str]) -> set[str]:
    """Return the full versions that these versions need.

    A version that is missing or damaged cannot be loaded any more, and needs none.

    Raises:
        OSError: If the file system refuses to say.
    """
    found: set[str] = set()
    for sha256 in addresses:
        try:
            base = artifact.read_manifest(folder, sha256).base
        except ArtifactError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
                raise error.__cause__ from error
            continue
        if base is not None:
            found.add(base)
    return found


def remove(folder: Path, sha256: str) -> None:
    """Remove a version; does nothing if it is not there.

    Raises:
        OSError: If the file system refuses.
    """
    if artifact.is_address(sha256) and (folder / sha256).is_dir():
        atomic_folder.remove(folder / sha256)


def remove_orphans(folder: Path, keep: Collection[str], before_s: float) -> list[str]:
    """Remove folders of crashed writers, and versions that are not in `keep`; return the names.

    Args:
        folder: Folder of the versions.
        keep: Addresses that stay.
        before_s: Epoch seconds. Younger versions stay: a version that was just written has no row in the registry yet.

    Raises:
        OSError: If the file system refuses.
    """
    removed = [path.name for path in remove_abandoned(folder, atomic_folder.TEMPORARY_PREFIX)]
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if artifact.is_address(path.name) and path.name not in keep and path.lstat().st_mtime < before_s:
            atomic_folder.remove(path)
            removed.append(path.name)
    return removed
