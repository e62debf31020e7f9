"""Files and folders on a volume that several processes share.

Names are unique by randomness, never by process id: in containers every process has the id 1. A locked file says which
process is alive, because the kernel releases the lock when the process ends, however it ends.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
_LOCK_NAME = "in-use.lock"


def replace_file(path: Path, content: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Replace the file at `path` by one with `content`, whole or not at all.

    Args:
        path: The file; missing folders above it are created.
        content: Bytes of the new file.
        mode: Permission bits of the new file.

    Raises:
        OSError: If the file cannot be written; it names the file. The old file stays as it was, and no temporary file
            remains.

    Guarantees: a reader sees the old content or the new one; the content is on disk before it is visible; of several
    writers, the last one wins.
    """
    with _written(path, content, mode) as temporary:
        temporary.replace(path)


def create_file(path: Path, content: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Create the file at `path` with `content`, whole or not at all; a file that is there stays.

    Args:
        path: The file; missing folders above it are created.
        content: Bytes of the new file.
        mode: Permission bits of the new file.

    Raises:
        OSError: If the file cannot be written. No temporary file remains.

    Guarantees: of several writers, the first one wins, and every reader sees its content; on a file system without hard
    links, that holds once one of them has ended.
    """
    with _written(path, content, mode) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        except OSError:
            temporary.replace(path)


@contextmanager
def _written(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Write `content` to disk beside `path`, and yield the temporary file, which is gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        # A write does not say which file has no room.
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def private_folder(folder: Path) -> Path:
    """Create a folder that only its owner may read, or take these rights from others, and return it.

    The folders above it that are missing get the usual rights.

    Raises:
        OSError: If the folder cannot be created, or belongs to someone else.
    """
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o777 != PRIVATE_FOLDER:
        folder.chmod(PRIVATE_FOLDER)
    return folder


def sync_folder(folder: Path) -> None:
    """Flush the entries of `folder` to disk, so that a renamed file in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderInUseError(OSError):
    """A folder that another live process has locked."""


class FolderLock:
    """An exclusive claim on a folder, held until `release` or the end of the process.

    Guarantees: at most one live holder per folder, across processes, containers and process-id namespaces that share
    the volume. A killed holder's claim ends with the process.
    """

    def __init__(self, folder: Path) -> None:
        """Claim `folder`, which is created if it is missing.

        Raises:
            FolderInUseError: If a live process holds the folder.
            OSError: If the folder cannot be created or locked.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise FolderInUseError(f"{folder} is in use by another process") from error
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """End the claim; the folder stays. Does nothing the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def unique_folder(parent: Path, prefix: str) -> FolderLock:
    """Create a folder with a name of its own below `parent`, and claim it.

    Args:
        parent: The folder above, created if it is missing.
        prefix: Start of the name; `remove_abandoned` finds folders by it.

    Raises:
        OSError: If the folder cannot be created.
    """
    parent.mkdir(parents=True, exist_ok=True)
    # The lock of the parent keeps `remove_abandoned` away between the creation and the claim.
    with _locked_parent(parent):
        return FolderLock(Path(tempfile.mkdtemp(dir=parent, prefix=prefix)))


def remove_abandoned(parent: Path, prefix: str) -> list[Path]:
    """Delete the folders below `parent` whose names start with `prefix` and that no live process has claimed.

    Returns: the deleted folders.
    """
    if not parent.is_dir():
        return []
    removed = []
    with _locked_parent(parent):
        for folder in sorted(parent.glob(f"{prefix}*")):
            try:
                lock = FolderLock(folder)
            except OSError:
                # Claimed, deleted by its owner meanwhile, or not a folder.
                continue
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            removed.append(folder)
    return removed


@contextmanager
def _locked_parent(parent: Path) -> Iterator[None]:
    descriptor = os.open(parent / ".folders.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
