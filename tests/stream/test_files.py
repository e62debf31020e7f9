import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from stream.files import (
    FolderInUseError,
    FolderLock,
    create_file,
    private_folder,
    remove_abandoned,
    replace_file,
    unique_folder,
)

HOLD = """
import sys
from pathlib import Path
from stream.files import unique_folder
lock = unique_folder(Path(sys.argv[1]), "store-")
(lock.folder / "row").write_text("kept")
print(lock.folder, flush=True)
sys.stdin.read()
"""


def _holder(parent: Path, *wrapper: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", HOLD, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _folder_of(process: "subprocess.Popen[str]") -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_a_replaced_file_has_its_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    replace_file(path, b"one")
    replace_file(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_private_folder_is_closed_to_others_also_where_it_was_open(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "own"
    for _ in range(2):
        assert private_folder(folder) == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o755)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space.*: .*/file'$"):
        replace_file(path, b"two")
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_is_created_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    create_file(path, b"one", mode=0o600)
    create_file(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_system_without_hard_links_gets_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    create_file(tmp_path / "file", b"one")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"one")]


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    errors: list[OSError] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(100):
                replace_file(path, content)
        except OSError as error:
            errors.append(error)

    threads = [Thread(target=write, args=(bytes([number]) * 10_000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(path.read_bytes())) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "one"), pytest.raises(FolderInUseError, match="one is in use"):
        FolderLock(tmp_path / "one")
    FolderLock(tmp_path / "one").release()


def test_only_the_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    alive, dead = _holder(tmp_path), _holder(tmp_path)
    alive_folder, dead_folder = _folder_of(alive), _folder_of(dead)
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert remove_abandoned(tmp_path, "store-") == [dead_folder]
        assert (alive_folder / "row").read_text() == "kept"
    finally:
        alive.communicate("")
        dead.communicate()
    assert remove_abandoned(tmp_path, "store-") == [alive_folder]


def test_processes_with_the_same_id_have_folders_of_their_own(tmp_path: Path) -> None:
    namespace = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow process-id namespaces")
    first, second = _holder(tmp_path, *namespace), _holder(tmp_path, *namespace)
    try:
        folders = {_folder_of(first), _folder_of(second)}
        assert len(folders) == 2
        assert remove_abandoned(tmp_path, "store-") == []
        assert all((folder / "row").read_text() == "kept" for folder in folders)
    finally:
        first.communicate("")
        second.communicate("")


def test_a_missing_parent_has_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_abandoned(tmp_path / "absent", "store-") == []
    with unique_folder(tmp_path / "absent", "store-") as lock:
        assert lock.folder.is_dir()
