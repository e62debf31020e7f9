"""Old orphans go, and full versions that others need are known."""

import errno
import os
from pathlib import Path

import pytest

from tests.serving.world import publish, publish_delta
from trainer.versions import removal


def test_old_orphans_are_removed_and_the_rest_stays(tmp_path: Path) -> None:
    kept, young = "d" * 64, "e" * 64
    for name in (".tmp-1", "f" * 64, kept, young, "notes"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ("f" * 64), (99, 99))
    os.utime(tmp_path / kept, (99, 99))
    os.utime(tmp_path / young, (101, 101))
    assert removal.remove_orphans(tmp_path, {kept}, before_s=100) == [".tmp-1", "f" * 64]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted([kept, young, "notes"])


def test_a_version_that_cannot_be_loaded_needs_none(tmp_path: Path) -> None:
    base = publish(tmp_path, "base", 1)
    delta = publish_delta(tmp_path, base, 2, rows=[4])
    assert removal.bases(tmp_path, [base]) == set()
    assert removal.bases(tmp_path, ["0" * 64, delta, base]) == {base}
    (tmp_path / delta / "manifest.json").write_text("{}")
    assert removal.bases(tmp_path, [delta]) == set()


def test_a_disk_that_does_not_answer_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delta = publish_delta(tmp_path, publish(tmp_path, "base", 1), 2, rows=[4])

    def refused(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("trainer.versions.atomic_folder.os.open", refused)
    with pytest.raises(OSError, match="Input/output error"):
        removal.bases(tmp_path, [delta])
