"""The warm store behaves like a dictionary and leaves nothing behind."""

from pathlib import Path

from stream.agents.stores import Shelves


def test_a_warm_store_behaves_like_a_dictionary(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path)
    rows, expected = shelves.warm(3), dict[bytes, bytes]()
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
    shelves.close()
    assert list(tmp_path.iterdir()) == []


def test_stores_of_one_partition_never_share_rows(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path)
    first = shelves.warm(0)
    first[b"key"] = b"old"
    second = shelves.warm(0)
    assert len(second) == 0
    first.close()
    second.close()


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    dead = tmp_path / "warm-999999999"
    dead.mkdir()
    (dead / "file").write_bytes(b"x")
    Shelves(tmp_path)
    assert not dead.exists()
