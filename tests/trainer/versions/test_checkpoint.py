import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream import db
from stream.errors import ArtifactError
from tests.trainer.harness import LINEAGE, SETTINGS, feed, make_loop
from tests.trainer.session_log import make_log
from trainer.configs import MODEL_PROFILES
from trainer.versions import atomic_folder, checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a trainer, which tests read and copy."""
    folder = tmp_path_factory.mktemp("home")
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    feed(make_loop(folder, engine), make_log(90))
    engine.dispose()
    return folder


@pytest.fixture
def trained(home: Path, tmp_path: Path) -> Path:
    """Checkpoints that the test may damage."""
    return shutil.copytree(home / "checkpoints", tmp_path / "checkpoints")


def manifests(folder: Path) -> dict[str, checkpoint.CheckpointManifest]:
    """Manifests by folder, oldest first."""
    return {
        path.name: msgspec.json.decode((path / "manifest.json").read_bytes(), type=checkpoint.CheckpointManifest)
        for path in sorted(folder.glob("0*"))
    }


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


def test_the_newest_wins_and_what_deltas_need_is_kept(trained: Path) -> None:
    found = manifests(trained)
    assert [one.num_deltas for one in found.values()] == [0, 2, 0, 1, 2][-len(found) :], (
        "full, delta, full, delta, delta"
    )
    assert all(one.base is None or one.base in found for one in found.values())
    newest = checkpoint.newest(trained)
    assert newest is not None
    assert newest.state.boundary_number == int(list(found)[-1][:12])


@pytest.mark.no_cover
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_no_checkpoint_is_without_the_full_one_that_it_needs(tmp_path: Path, keep: int) -> None:
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    counts: list[int] = []

    def watch(step: str) -> None:
        if step == "checkpoint.before_write" and (tmp_path / "checkpoints").is_dir():
            found = manifests(tmp_path / "checkpoints")
            assert all(one.base is None or one.base in found for one in found.values())
            counts.append(len(found))

    settings = replace(SETTINGS, keep_checkpoints=keep, keep_versions=3)
    feed(make_loop(tmp_path, engine, failpoint=watch, settings=settings), make_log(240))
    assert max(counts) <= keep + 6, "with those of two versions"
    found = manifests(tmp_path / "checkpoints")
    newest_is_full = list(found.values())[-1].base is None
    assert newest_is_full or len({one.base or name for name, one in found.items()}) >= 2, "should one be damaged"


def test_all_are_removed_but_those_of_the_versions_that_are_needed(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifests(trained)
    name, newest = next((n, one) for n, one in before.items() if one.base is not None and one.state.published.artifact)
    address = newest.state.published.artifact
    assert address is not None

    def refused(_path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(atomic_folder, "remove", refused)
        with pytest.raises(atomic_folder.WriteError, match="is not removed"):
            checkpoint.clean(trained, {address})
    assert manifests(trained) == before
    assert checkpoint.clean(trained, {address}) == int(name[:12])
    assert set(manifests(trained)) == {name, newest.base}
    assert checkpoint.of_version(trained, address) == trained / name
    assert checkpoint.clean(trained, ()) == 0
    assert manifests(trained) == {}
    assert checkpoint.clean(trained / "missing", ()) == 0


def test_a_delta_is_smaller_and_loads_as_the_whole(tmp_path: Path) -> None:
    loaded = []
    for name, deltas in [("with", 30), ("without", 0)]:
        engine = db.create("sqlite://")
        db.metadata.create_all(engine)
        loop = make_loop(tmp_path / name, engine, settings=replace(SETTINGS, deltas_per_base=deltas))
        feed(loop, make_log(90))
        found = checkpoint.newest(tmp_path / name / "checkpoints")
        assert found is not None
        loaded.append(found)
    delta, full = loaded
    assert (delta.base.num_deltas > 0, full.base.num_deltas) == (True, 0)
    assert delta.files.keys() == full.files.keys()
    for name, arrays in full.files.items():
        assert delta.files[name].keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(delta.files[name][key], array)


def test_a_damaged_full_checkpoint_gives_way_to_the_full_one_before(trained: Path) -> None:
    found = manifests(trained)
    full = next(one.base for one in reversed(found.values()) if one.base is not None)
    damage(trained / full / "rows.safetensors")
    newest = checkpoint.newest(trained)
    assert newest is not None
    assert newest.base.name < full


def test_a_delta_that_needs_a_delta_or_a_path_is_refused(trained: Path) -> None:
    name, manifest = list(manifests(trained).items())[-1]
    for base in (name, "../elsewhere"):
        other = msgspec.structs.replace(manifest, base=base)
        path = atomic_folder.write(trained, {}, lambda _, other=other: other, prefix="000000009999-")  # type: ignore[misc]
        for file in (trained / name).glob("*.safetensors"):
            shutil.copy(file, path)
        with pytest.raises(ArtifactError, match=r"no full checkpoint|no name"):
            checkpoint.load(path)


def test_another_format_is_refused_by_name(trained: Path) -> None:
    manifest = msgspec.structs.replace(list(manifests(trained).values())[-1], format=1)
    path = atomic_folder.write(trained, {}, lambda _: manifest, prefix="000000009999-")
    with pytest.raises(ArtifactError, match="format 1, this release reads format 2"):
        checkpoint.load(path)


def test_an_empty_or_missing_folder_is_a_fresh_start(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "file", ["manifest.json", "dense.safetensors", "rows.safetensors", "ids.safetensors", "seen.safetensors"]
)
def test_a_damaged_one_gives_way_to_the_one_before(trained: Path, file: str) -> None:
    names = sorted(path.name for path in trained.glob("0*"))
    damage(trained / names[-1] / file)
    found = checkpoint.newest(trained)
    assert found is not None
    assert found.state.boundary_number == int(names[-2][:12])


def test_a_half_written_one_is_invisible(trained: Path) -> None:
    before = checkpoint.newest(trained)
    (trained / ".tmp-77").mkdir()
    (trained / ".tmp-77" / "dense.safetensors").write_bytes(b"half")
    after = checkpoint.newest(trained)
    assert before is not None
    assert after is not None
    assert after.state == before.state


def test_starting_afresh_over_damaged_checkpoints_is_refused(trained: Path) -> None:
    for path in trained.glob("0*"):
        (path / "dense.safetensors").unlink()
    with pytest.raises(ArtifactError, match="none of"):
        checkpoint.newest(trained)


def test_a_checkpoint_of_another_model_is_refused(trained: Path, tmp_path: Path) -> None:
    engine = db.create("sqlite://")
    db.metadata.create_all(engine)
    other = replace(LINEAGE, model="mlp", config=MODEL_PROFILES["mlp"]["tiny"])
    with pytest.raises(ArtifactError, match="this trainer is"):
        make_loop(tmp_path, engine, lineage=other).start()
