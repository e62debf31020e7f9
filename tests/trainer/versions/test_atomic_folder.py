"""Atomic folders under several writers, in one process tree and in PID namespaces of their own."""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.files import remove_abandoned
from trainer.versions import atomic_folder
from trainer.versions.atomic_folder import FileEntry, WriteError

WRITES = 150
_NAMESPACE = ("unshare", "-p", "-f", "--mount-proc")


class Manifest(msgspec.Struct):
    number: int
    files: dict[str, FileEntry]


def write(parent: Path, number: int) -> Path:
    return atomic_folder.write(
        parent,
        {"weights": {"w": np.arange(number, number + 64, dtype=np.float32)}},
        lambda files: Manifest(number, files),
    )


def read(folder: Path) -> int:
    manifest = msgspec.json.decode(atomic_folder.read_manifest(folder), type=Manifest)
    values = atomic_folder.read_files(folder, manifest.files)["weights"]["w"]
    assert values[0] == manifest.number
    return manifest.number


def finished(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if not path.name.startswith(".")]


def write_side(parent: Path, first: int) -> None:
    """Write `WRITES` folders; the program of each of the two processes."""
    for number in range(first, first + WRITES):
        read(write(parent, number))


def run_two_writers(parent: Path, prefix: Sequence[str], firsts: tuple[int, int]) -> None:
    module = "from pathlib import Path; from tests.trainer.versions.test_atomic_folder import write_side"
    sides = [
        subprocess.Popen(
            [*prefix, sys.executable, "-c", f"{module}; write_side(Path({str(parent)!r}), {first})"],
            cwd=Path(__file__).parents[3],
            stderr=subprocess.PIPE,
        )
        for first in firsts
    ]
    errors = [side.communicate(timeout=120)[1].decode() for side in sides]
    assert [side.returncode for side in sides] == [0, 0], "\n".join(errors)


def can_make_namespaces() -> bool:
    try:
        return subprocess.run([*_NAMESPACE, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_two_processes_write_into_one_folder(tmp_path: Path) -> None:
    run_two_writers(tmp_path, (), (0, 1_000))
    assert sorted(map(read, finished(tmp_path))) == [*range(WRITES), *range(1_000, 1_000 + WRITES)]


@pytest.mark.slow
def test_two_writers_that_are_both_pid_1_write_into_one_folder(tmp_path: Path) -> None:
    if not can_make_namespaces():
        pytest.skip("PID namespaces are not allowed here")
    run_two_writers(tmp_path, _NAMESPACE, (0, 1_000))
    assert sorted(map(read, finished(tmp_path))) == [*range(WRITES), *range(1_000, 1_000 + WRITES)]


@pytest.mark.slow
def test_two_writers_of_the_same_content_both_succeed(tmp_path: Path) -> None:
    run_two_writers(tmp_path, (), (0, 0))
    assert sorted(map(read, finished(tmp_path))) == [*range(WRITES)]
    assert not list(tmp_path.glob(".tmp-*"))


def test_equal_content_that_is_whole_stays_and_damaged_content_gives_way(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    before = (path / "weights.safetensors").stat().st_ino
    assert write(tmp_path, 3) == path
    assert (path / "weights.safetensors").stat().st_ino == before
    (path / "weights.safetensors").write_bytes(b"damaged")
    write(tmp_path, 3)
    assert read(path) == 3
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    write(tmp_path, 3)
    assert not path.is_symlink()
    assert read(path) == 3
    assert not list(tmp_path.glob(".tmp-*"))


def test_what_a_crashed_writer_left_is_removed_but_not_what_a_live_one_writes(tmp_path: Path) -> None:
    (tmp_path / ".tmp-crashed").mkdir()
    removed: list[str] = []

    def clean(name: str) -> None:
        if name == "before_rename":
            removed.extend(path.name for path in remove_abandoned(tmp_path, atomic_folder.TEMPORARY_PREFIX))

    path = atomic_folder.write(tmp_path, {}, lambda files: Manifest(7, files), clean)
    assert path.is_dir()
    assert removed == [".tmp-crashed"]


def test_a_finished_folder_has_the_mode_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert write(tmp_path, 0).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_write_that_the_file_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(WriteError, match="not written"):
            write(tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert read(write(tmp_path, 1)) == 1


def test_a_folder_that_cannot_be_created_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="not written"):
        write(tmp_path / "file", 1)


def test_a_removed_folder_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    atomic_folder.remove(path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
