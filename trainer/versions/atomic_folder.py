"""Folders that are complete and verified, or invisible: safetensors files under one manifest with their hashes.

safetensors refuses truncation but loads flipped bits and NaN, so every file is hashed, compared with the dtypes and
shapes its manifest names, and checked for finite values, all on the very bytes that are then used.

Source: docs/training.md.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save_file

from stream.errors import ArtifactError
from stream.failpoints import Failpoint, no_failpoint
from stream.files import sync_folder, unique_folder

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
"""File with the signature of the manifest; a folder need not have one."""
TEMPORARY_PREFIX = ".tmp-"
_MANIFEST_MAX_BYTES = 1 << 20
_SIGNATURE_MAX_BYTES = 1 << 10

Tensors = Mapping[str, NDArray[np.generic]]
Sign = Callable[[bytes], bytes | None]


def no_signature(_manifest: bytes) -> None:
    """Return None: a folder without a signature."""


class WriteError(ArtifactError):
    """The file system refused a version or checkpoint: nothing of it is visible, and it can be written again."""


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expected form of one tensor."""

    dtype: str
    shape: list[int]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expected form of one file."""

    sha256: str
    size: int
    tensors: dict[str, TensorEntry]


def write(
    parent: Path,
    files: Mapping[str, Tensors],
    manifest: Callable[[dict[str, FileEntry]], msgspec.Struct],
    failpoint: Failpoint = no_failpoint,
    *,
    prefix: str = "",
    sign: Sign = no_signature,
) -> Path:
    """Write a folder in one atomic rename and return its path, named `prefix` + sha256 of its manifest.

    Any number of processes may write into one parent, in other containers too. Writers of equal content all succeed.

    Args:
        parent: Folder that holds the finished folders; created if missing.
        files: File name to its tensors.
        manifest: Makes the manifest from the entries of the files.
        failpoint: Called with the name of each step, for crash tests.
        prefix: Put before the hash in the folder's name.
        sign: Returns the signature of the manifest's bytes; None for none.

    Raises:
        WriteError: If the file system refuses a step.
    """
    try:
        failpoint("before_write")
        with unique_folder(parent, TEMPORARY_PREFIX) as staging:
            try:
                target = _write(
                    parent,
                    staging.folder,
                    files=files,
                    manifest=manifest,
                    failpoint=failpoint,
                    prefix=prefix,
                    sign=sign,
                )
                sync_folder(parent)
            except (OSError, safetensors.SafetensorError):
                # A disk that is full needs the space at once.
                shutil.rmtree(staging.folder, ignore_errors=True)
                raise
            shutil.rmtree(staging.folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise WriteError(f"{parent}: not written: {error}") from error
    return target


def remove(path: Path) -> None:
    """Remove a finished folder; a reader sees all of it or nothing.

    Raises:
        OSError: If the file system refuses.
    """
    with unique_folder(path.parent, TEMPORARY_PREFIX) as staging:
        path.rename(staging.folder / "removed")
        shutil.rmtree(staging.folder)


def _write(
    parent: Path,
    staging: Path,
    *,
    files: Mapping[str, Tensors],
    manifest: Callable[[dict[str, FileEntry]], msgspec.Struct],
    failpoint: Failpoint,
    prefix: str,
    sign: Sign,
) -> Path:
    # A folder of its own: the content must neither hold the lock file nor keep the private mode of the outer one.
    content = staging / "content"
    content.mkdir()
    entries = {file: _write_file(content / f"{file}.safetensors", tensors) for file, tensors in files.items()}
    failpoint("after_write")
    for file in files:
        _sync_file(content / f"{file}.safetensors")
    raw = msgspec.json.encode(msgspec.to_builtins(manifest(entries), str_keys=True), order="sorted")
    (content / MANIFEST).write_bytes(raw)
    _sync_file(content / MANIFEST)
    signature = sign(raw)
    if signature is not None:
        (content / SIGNATURE).write_bytes(signature)
        _sync_file(content / SIGNATURE)
    sync_folder(content)
    failpoint("after_fsync")
    target = parent / (prefix + hashlib.sha256(raw).hexdigest())
    failpoint("before_rename")
    _install(content, target, entries, signature)
    failpoint("after_rename")
    return target


def _install(content: Path, target: Path, entries: Mapping[str, FileEntry], signature: bytes | None) -> None:
    """Rename `content` to `target`. Equal content that is there stays, unless it is damaged or signed otherwise."""
    while True:
        try:
            content.rename(target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
        else:
            return
        if _is_whole(target, entries, signature):
            os.utime(target)  # as young as if it had been renamed: what is old and unregistered is removed
            return
        damaged = content.with_name("damaged")
        # Missing: another writer of the same content was faster.
        with suppress(FileNotFoundError):
            target.rename(damaged)
            damaged.unlink() if damaged.is_symlink() else shutil.rmtree(damaged)


def _is_whole(folder: Path, entries: Mapping[str, FileEntry], signature: bytes | None) -> bool:
    try:
        read_manifest(folder)
        read_files(folder, entries)
        return signature is None or read_signature(folder) == signature
    except (ArtifactError, OSError):
        return False


def _write_file(path: Path, tensors: Tensors) -> FileEntry:
    arrays = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    save_file(arrays, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    shapes = {key: TensorEntry(array.dtype.name, list(array.shape)) for key, array in arrays.items()}
    return FileEntry(digest, path.stat().st_size, shapes)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> bytes:
    """Return the bytes of a folder's manifest.

    Raises:
        ArtifactError: If the folder or the manifest is missing, a link, no regular file, larger than 1 MiB, or not what
            the folder's name says.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise ArtifactError(f"{folder.name}: expected a folder")
    raw = _read(folder / MANIFEST, _MANIFEST_MAX_BYTES)
    if not folder.name.endswith(hashlib.sha256(raw).hexdigest()):
        raise ArtifactError(f"{folder.name}/{MANIFEST}: belongs to another folder, or is damaged")
    return raw


def read_signature(folder: Path) -> bytes | None:
    """Return the signature of a folder's manifest without its line break, None if there is none.

    Raises:
        ArtifactError: If it is a link, no regular file, or larger than 1 KiB.
    """
    try:
        return _read(folder / SIGNATURE, _SIGNATURE_MAX_BYTES).strip()
    except ArtifactError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def read_files(folder: Path, entries: Mapping[str, FileEntry]) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Return the tensors of all files of a folder.

    Raises:
        ArtifactError: If a file is missing, surplus, a link, no regular file, damaged, not finite, or not what its
            entry says.
    """
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ArtifactError(f"{folder.name}: {error.strerror}") from error
    expected = {MANIFEST, *(f"{file}.safetensors" for file in entries)}
    if present - {SIGNATURE} != expected:
        raise ArtifactError(f"{folder.name}: holds {sorted(present)}, expected {sorted(expected)}")
    return {file: _read_file(folder / f"{file}.safetensors", entry) for file, entry in entries.items()}


def _read_file(path: Path, entry: FileEntry) -> dict[str, NDArray[np.generic]]:
    raw = _read(path, entry.size)
    where = f"{path.parent.name}/{path.name}"
    if len(raw) != entry.size or hashlib.sha256(raw).hexdigest() != entry.sha256:
        raise ArtifactError(f"{where}: {len(raw)} bytes do not have the size or hash of the manifest")
    try:
        tensors: dict[str, NDArray[np.generic]] = dict(load_tensors(raw))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{where}: {error}") from error
    found = {key: TensorEntry(array.dtype.name, list(array.shape)) for key, array in tensors.items()}
    if found != entry.tensors:
        raise ArtifactError(f"{where}: names, dtypes or shapes differ from the manifest")
    for key, array in tensors.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ArtifactError(f"{where}: {key} holds NaN or infinity")
    return tensors


def _read(path: Path, max_bytes: int) -> bytes:
    where = f"{path.parent.name}/{path.name}"
    try:
        # Without blocking, since to open a named pipe would wait for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ArtifactError(f"{where}: is no regular file")
            if found.st_size > max_bytes:
                raise ArtifactError(f"{where}: {found.st_size} bytes, expected at most {max_bytes}")
            return file.read()
    except OSError as error:
        raise ArtifactError(f"{where}: {error.strerror}") from error
