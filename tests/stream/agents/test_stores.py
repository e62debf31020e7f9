"""The warm store: it behaves like a dictionary, keeps its rows beside other processes, and leaves no files."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream.agents.stores import StoreFactory
from tests.harness.store_owner import NUM_ROWS

_OWN_PROCESS_IDS = ("unshare", "--pid", "--fork", "--mount-proc")


def test_a_warm_store_behaves_like_a_dictionary(tmp_path: Path) -> None:
    factory = StoreFactory(tmp_path)
    rows, expected = factory.open_warm(3), dict[bytes, bytes]()
    for number in range(200):
        key, value = b"key-%03d" % (number % 50), b"value-%d" % number
        rows[key] = value
        expected[key] = value
        if number % 7 == 0:
            assert rows.pop(key, None) == expected.pop(key)
    rows.update({b"a": b"1", b"b": b"2"})
    expected |= {b"a": b"1", b"b": b"2"}
    rows.apply({b"a": None, b"c": b"3"})
    del expected[b"a"]
    expected[b"c"] = b"3"

    assert dict(rows.items()) == expected
    assert sorted(rows) == sorted(expected)
    assert len(rows) == len(expected)
    assert b"a" not in rows
    assert b"c" in rows
    assert rows.pop(b"nothing", None) is None
    rows.close()
    factory.close()
    assert list(tmp_path.glob("[!.]*")) == []


def test_stores_of_one_partition_never_share_rows(tmp_path: Path) -> None:
    factory = StoreFactory(tmp_path)
    first = factory.open_warm(0)
    first[b"key"] = b"old"
    second = factory.open_warm(0)
    assert len(second) == 0
    first.close()
    second.close()
    factory.close()


@contextmanager
def _owner(folder: Path, name: str, prefix: Sequence[str] = ()) -> "Iterator[subprocess.Popen[str]]":
    """Start a process that owns a store, and wait until it has written rows."""
    owner = subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.harness.store_owner", str(folder), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "written\n"
        yield owner
    finally:
        owner.kill()
        owner.communicate()


def test_the_store_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    with _owner(tmp_path, "killed"):
        assert len(list(tmp_path.glob("warm-*"))) == 1
    factory = StoreFactory(tmp_path)
    assert len(list(tmp_path.glob("warm-*"))) == 1, "its own folder"
    factory.close()
    assert list(tmp_path.glob("warm-*")) == []


@pytest.mark.slow
def test_two_processes_with_one_process_id_keep_their_rows(tmp_path: Path) -> None:
    """Workers in containers share a volume, and each of them has the process id 1."""
    try:
        tried = subprocess.run([*_OWN_PROCESS_IDS, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("the command unshare of util-linux is missing")
    if tried.returncode != 0:
        pytest.skip(f"namespaces of process ids are not allowed here: {tried.stderr.strip()}")
    with (
        _owner(tmp_path, "first", _OWN_PROCESS_IDS) as first,
        _owner(tmp_path, "second", _OWN_PROCESS_IDS) as second,
    ):
        assert len(list(tmp_path.glob("warm-*"))) == 2
        for owner in (first, second):
            answer, _ = owner.communicate("go on\n")
            assert answer == f"1 {NUM_ROWS}\n", "process id, rows read back"
            assert owner.returncode == 0
    assert list(tmp_path.glob("warm-*")) == []
