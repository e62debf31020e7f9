"""Versions load whole and verified, or not at all."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from stream import db
from stream.errors import ArtifactError
from tests.trainer.harness import feed, make_loop
from tests.trainer.session_log import make_log
from trainer.versions import artifact
from trainer.versions.registry import Registry


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a short run's versions, and their addresses."""
    folder = tmp_path_factory.mktemp("published")
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    feed(make_loop(folder, engine), make_log(90))
    return folder / "artifacts", [version.artifact for version in Registry(engine).versions("test")]


@pytest.fixture
def copied(published: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, str]:
    folder, addresses = published
    shutil.copytree(folder / addresses[-1], tmp_path / addresses[-1])
    return tmp_path, addresses[-1]


def test_a_version_loads_with_equal_scores(published: tuple[Path, list[str]]) -> None:
    folder, addresses = published
    version = artifact.load(folder, addresses[-1])
    assert artifact.verify_golden(version) == 0
    assert version.manifest.parent == addresses[-2]
    assert version.manifest.version == len(addresses)
    assert len(version.golden.cand_mask) <= artifact.GOLDEN_SESSIONS
    assert len(version.id_maps.item) > 10
    assert version.id_maps.item.lookup(["", "never seen"]).tolist() == [0, 1]
    assert not {name for name in version.params if name.startswith("rows.")} - {
        "rows.item",
        "rows.shop",
        "rows.brand",
        "rows.category",
    }


def reseal(folder: Path, address: str, change: Callable[[dict[str, object]], None]) -> str:
    """Change a manifest, and give the folder the name that its new manifest asks for."""
    document = msgspec.json.decode((folder / address / "manifest.json").read_bytes())
    change(document)
    raw = msgspec.json.encode(document)
    (folder / address / "manifest.json").write_bytes(raw)
    name = hashlib.sha256(raw).hexdigest()
    (folder / address).rename(folder / name)
    return name


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    save_file(change(load_file(path)), path)


def reseal_files(folder: Path, address: str) -> str:
    """Give every file the hash and size that it has now: an honest manifest of wrong tensors."""

    def change(document: dict[str, object]) -> None:
        files = document["files"]
        assert isinstance(files, dict)
        for name, entry in files.items():
            path = folder / address / f"{name}.safetensors"
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            entry["size"] = path.stat().st_size

    return reseal(folder, address, change)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 0x10
    path.write_bytes(bytes(raw))


def zero_tail(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-64] + bytes(64))


def link(path: Path) -> None:
    target = path.with_name("elsewhere").parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("file", ["dense", "rows", "ids", "golden"])
@pytest.mark.parametrize(
    "damage",
    [
        flip,
        zero_tail,
        link,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["bit flip", "zero tail", "link", "truncated", "appended", "empty", "missing"],
)
def test_damaged_files_are_refused(copied: tuple[Path, str], file: str, damage: Callable[[Path], None]) -> None:
    folder, address = copied
    damage(folder / address / f"{file}.safetensors")
    with pytest.raises(ArtifactError):
        artifact.load(folder, address)


def with_nan(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    name = next(iter(tensors))
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[0] = np.nan
    return tensors


@pytest.mark.parametrize(
    "change",
    [
        with_nan,
        lambda tensors: {name: array.astype(np.float64) for name, array in tensors.items()},
        lambda tensors: {name: array.reshape(-1) for name, array in tensors.items()},
        lambda tensors: {f"x.{name}": array for name, array in tensors.items()},
        lambda tensors: dict(list(tensors.items())[1:]),
    ],
    ids=["NaN", "dtype", "shape", "name", "one tensor less"],
)
def test_wrong_tensors_under_an_honest_hash_are_refused(
    copied: tuple[Path, str], change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> None:
    folder, address = copied
    rewrite(folder / address / "dense.safetensors", change)
    with pytest.raises(ArtifactError):
        artifact.load(folder, reseal_files(folder, address))


def test_shuffled_weights_fail_the_golden_sessions(copied: tuple[Path, str]) -> None:
    folder, address = copied
    rewrite(folder / address / "dense.safetensors", lambda tensors: {n: a[::-1].copy() for n, a in tensors.items()})
    version = artifact.load(folder, reseal_files(folder, address))
    with pytest.raises(ArtifactError, match="golden scores differ"):
        artifact.verify_golden(version)


def test_a_manifest_of_another_version_is_refused(published: tuple[Path, list[str]], copied: tuple[Path, str]) -> None:
    (source, addresses), (folder, address) = published, copied
    shutil.copy(source / addresses[0] / "manifest.json", folder / address / "manifest.json")
    with pytest.raises(ArtifactError, match="belongs to another folder"):
        artifact.load(folder, address)
    (folder / address).rename(folder / addresses[0])
    with pytest.raises(ArtifactError, match="hash"):
        artifact.load(folder, addresses[0])


@pytest.mark.parametrize("key", ["model", "files", "config", "capacities"])
def test_a_manifest_that_makes_no_sense_is_refused(copied: tuple[Path, str], key: str) -> None:
    def change(document: dict[str, object]) -> None:
        document[key] = {"model": "gpt", "files": {}, "config": {"d": "wide"}, "capacities": {"item": 3}}[key]

    folder, address = copied
    with pytest.raises(ArtifactError):
        artifact.load(folder, reseal(folder, address, change))


def test_a_version_of_an_earlier_format_is_refused_by_name(copied: tuple[Path, str]) -> None:
    folder, address = copied
    with pytest.raises(ArtifactError, match="format 1, this release reads format 2"):
        artifact.load(folder, reseal(folder, address, lambda document: document.update(format=1)))


def test_a_surplus_file_and_a_linked_folder_are_refused(copied: tuple[Path, str]) -> None:
    folder, address = copied
    (folder / address / "extra").write_text("x")
    with pytest.raises(ArtifactError, match="extra"):
        artifact.load(folder, address)
    (folder / address / "extra").unlink()
    artifact.load(folder, address)
    (folder / address).rename(folder / "moved")
    (folder / address).symlink_to(folder / "moved")
    with pytest.raises(ArtifactError, match="expected a folder"):
        artifact.load(folder, address)


@pytest.mark.parametrize("address", ["", "..", "A" * 64, "a" * 63, "a" * 64 + "\n", "../" + "a" * 61, "a" * 64])
def test_only_addresses_of_versions_are_opened(tmp_path: Path, address: str) -> None:
    with pytest.raises(ArtifactError):
        artifact.load(tmp_path, address)


def test_weights_that_are_not_finite_are_not_published(copied: tuple[Path, str], tmp_path: Path) -> None:
    version = artifact.load(*copied)
    version.params["rows.item"][3, 0] = torch.inf
    with pytest.raises(ArtifactError, match="not published"):
        artifact.publish(tmp_path / "new", version.manifest, version.params, version.id_maps, version.golden)
    assert not (tmp_path / "new").exists()


def test_half_precision_rows_keep_golden_scores_equal(copied: tuple[Path, str], tmp_path: Path) -> None:
    version = artifact.load(*copied)
    narrow = artifact.publish(
        tmp_path / "new", version.manifest, version.params, version.id_maps, version.golden, rows_dtype=torch.float16
    )
    loaded = artifact.load(tmp_path / "new", narrow)
    assert artifact.verify_golden(loaded) == 0
    assert not torch.equal(loaded.params["rows.item"], version.params["rows.item"])
    wide = (tmp_path / "new" / narrow / "rows.safetensors").stat().st_size
    assert wide < 0.6 * (copied[0] / copied[1] / "rows.safetensors").stat().st_size


def test_old_orphans_are_removed_and_the_rest_stays(copied: tuple[Path, str]) -> None:
    folder, address = copied
    young = "e" * 64
    for name in (".tmp-1", "f" * 64, young, "notes"):
        (folder / name).mkdir()
    os.utime(folder / ("f" * 64), (99, 99))
    os.utime(folder / young, (101, 101))
    assert artifact.remove_orphans(folder, {address}, before_s=100) == [".tmp-1", "f" * 64]
    assert sorted(path.name for path in folder.glob("[!.]*")) == sorted([address, young, "notes"])
