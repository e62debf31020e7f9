"""Versions load whole and verified, or not at all."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from serving.ranking.scorer import Loader, Runtime
from stream import db
from stream.errors import ArtifactError
from tests.serving.world import publish, publish_delta
from tests.trainer.harness import SETTINGS, feed, make_loop
from tests.trainer.lists import hashes
from tests.trainer.session_log import make_log
from trainer.versions import artifact, writing
from trainer.versions.registry import Registry


def versions_of_a_short_run(folder: Path, *, delta_share: float, onnx_graph: bool = False) -> tuple[Path, list[str]]:
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    settings = replace(SETTINGS, version_delta_share=delta_share, onnx_graph=onnx_graph)
    feed(make_loop(folder, engine, settings=settings), make_log(90))
    return folder / "artifacts", [version.artifact for version in Registry(engine).versions("test")]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a short run's full versions, and their addresses."""
    return versions_of_a_short_run(tmp_path_factory.mktemp("published"), delta_share=0, onnx_graph=True)


@pytest.fixture(scope="module")
def published_deltas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of the same run's versions as deltas of the first one, and their addresses."""
    return versions_of_a_short_run(tmp_path_factory.mktemp("deltas"), delta_share=1)


@pytest.fixture
def copied(published: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, str]:
    folder, addresses = published
    shutil.copytree(folder / addresses[-1], tmp_path / addresses[-1])
    return tmp_path, addresses[-1]


@pytest.fixture
def delta(published_deltas: tuple[Path, list[str]], tmp_path: Path) -> tuple[Path, str, str]:
    """A folder with the newest delta and its base, and their addresses."""
    folder, addresses = published_deltas
    for address in (addresses[0], addresses[-1]):
        shutil.copytree(folder / address, tmp_path / address)
    return tmp_path, addresses[-1], addresses[0]


def test_a_version_loads_with_equal_scores(published: tuple[Path, list[str]]) -> None:
    folder, addresses = published
    version = artifact.load(folder, addresses[-1])
    assert writing.verify_golden(version) == 0
    assert version.manifest.parent == addresses[-2]
    assert version.manifest.version == len(addresses)
    assert len(version.golden.cand_mask) <= artifact.GOLDEN_SESSIONS
    assert len(version.id_maps.item) > 10
    assert version.id_maps.item.lookup(hashes(["", "never seen"])).tolist() == [0, 1]
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


any_file = pytest.mark.parametrize("file", ["dense", "rows", "ids", "golden"])
any_damage = pytest.mark.parametrize(
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


@any_file
@any_damage
def test_damaged_files_are_refused(copied: tuple[Path, str], file: str, damage: Callable[[Path], None]) -> None:
    folder, address = copied
    damage(folder / address / f"{file}.safetensors")
    with pytest.raises(ArtifactError):
        artifact.load(folder, address)


@any_file
@any_damage
def test_a_delta_with_a_damaged_file_or_base_is_refused_by_name(
    delta: tuple[Path, str, str], file: str, damage: Callable[[Path], None]
) -> None:
    folder, address, base = delta
    held = artifact.load(folder, base)
    damage(folder / base / f"{file}.safetensors")
    with pytest.raises(ArtifactError, match=f"^{address}: its base is refused: {base}"):
        artifact.load(folder, address)
    assert writing.verify_golden(artifact.load(folder, address, [held])) == 0
    damage(folder / address / f"{file}.safetensors")
    with pytest.raises(ArtifactError, match=f"^{address}"):
        artifact.load(folder, address, [held])


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
        writing.verify_golden(version)


def test_a_manifest_of_another_version_is_refused(published: tuple[Path, list[str]], copied: tuple[Path, str]) -> None:
    (source, addresses), (folder, address) = published, copied
    shutil.copy(source / addresses[0] / "manifest.json", folder / address / "manifest.json")
    with pytest.raises(ArtifactError, match="belongs to another folder"):
        artifact.load(folder, address)
    (folder / address).rename(folder / addresses[0])
    with pytest.raises(ArtifactError, match="hash"):
        artifact.load(folder, addresses[0])


@pytest.mark.parametrize("key", ["model", "files", "config", "capacities", "feature_schema", "unknown"])
def test_a_manifest_that_makes_no_sense_is_refused(copied: tuple[Path, str], key: str) -> None:
    def change(document: dict[str, object]) -> None:
        document[key] = {
            "model": "gpt",
            "files": {},
            "config": {"d": "wide"},
            "capacities": {"item": 3},
            "feature_schema": "0" * 64,
            "unknown": 1,
        }[key]

    folder, address = copied
    with pytest.raises(ArtifactError):
        artifact.load(folder, reseal(folder, address, change))


@pytest.mark.parametrize("raw", [b'{"lineage": "\xff"}', b'{"config":' * 100_000, b"[]", b"\0"])
def test_a_manifest_that_is_no_document_is_refused_by_name(tmp_path: Path, raw: bytes) -> None:
    address = hashlib.sha256(raw).hexdigest()
    (tmp_path / address).mkdir()
    (tmp_path / address / "manifest.json").write_bytes(raw)
    with pytest.raises(ArtifactError, match=f"{address}/manifest.json: "):
        artifact.load(tmp_path, address)


def test_a_version_of_an_earlier_format_is_refused_by_name(copied: tuple[Path, str]) -> None:
    folder, address = copied
    with pytest.raises(ArtifactError, match="format 1, this release reads formats 2 and 3"):
        artifact.load(folder, reseal(folder, address, lambda document: document.update(format=1)))


def test_a_version_of_format_2_is_read(copied: tuple[Path, str]) -> None:
    def as_format_2_wrote_it(document: dict[str, object]) -> None:
        document["format"] = 2
        assert document.pop("base") is None

    folder, address = copied
    before = artifact.load(folder, address)
    after = artifact.load(folder, reseal(folder, address, as_format_2_wrote_it))
    assert writing.verify_golden(after) == 0
    assert after.params.keys() == before.params.keys()
    with pytest.raises(ArtifactError, match="format 2 knows no base"):
        artifact.load(folder, reseal(folder, after.sha256, lambda document: document.update(base=address)))


@pytest.mark.parametrize("capacity", [10**12, 1, 0, -5])
def test_a_capacity_other_than_the_rows_of_its_table_is_refused(copied: tuple[Path, str], capacity: int) -> None:
    def change(document: dict[str, object]) -> None:
        capacities = document["capacities"]
        assert isinstance(capacities, dict)
        capacities["item"] = capacity

    address = reseal(*copied, change)
    with pytest.raises(ArtifactError, match=f"{address}: capacities .*'item': {capacity}"):
        artifact.load(copied[0], address)


def test_a_golden_set_without_candidates_proves_nothing(copied: tuple[Path, str]) -> None:
    folder, address = copied

    def masked(golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return golden | {"cand_mask": np.zeros_like(golden["cand_mask"])}

    rewrite(folder / address / "golden.safetensors", masked)
    version = artifact.load(folder, reseal_files(folder, address))
    with pytest.raises(ArtifactError, match="no candidate"):
        writing.verify_golden(version)


def restate_files(folder: Path, address: str) -> str:
    """Let the manifest state what the files hold now, so that it agrees with them in everything."""

    def change(document: dict[str, object]) -> None:
        files = document["files"]
        assert isinstance(files, dict)
        for name, entry in files.items():
            tensors = load_file(folder / address / f"{name}.safetensors")
            entry["tensors"] = {
                key: {"dtype": array.dtype.name, "shape": list(array.shape)} for key, array in tensors.items()
            }

    return reseal_files(folder, reseal(folder, address, change))


def all_changed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Apply a change to each tensor of a file."""
    return lambda tensors: {name: np.ascontiguousarray(change(array)) for name, array in tensors.items()}


def one_changed(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda tensors: tensors | {name: np.ascontiguousarray(change(tensors[name]))}


def without_tensor(name: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda tensors: {key: array for key, array in tensors.items() if key != name}


def swapped(table: str, one: int, other: int) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Let two ids of a table change their rows."""

    def change(array: np.ndarray) -> np.ndarray:
        array[[one, other]] = array[[other, one]]
        return array

    return lambda tensors: tensors | {name: change(tensors[name].copy()) for name in (f"{table}.high", f"{table}.low")}


RUNTIMES: tuple[Runtime, ...] = ("torch-eager", "onnx")
SELF_CONSISTENT = {
    "weights of 0": ("dense", all_changed(np.zeros_like)),
    "other weights": ("dense", all_changed(lambda array: array + 0.5)),
    "flat weights": ("dense", all_changed(np.ravel)),
    "weights of integers": ("dense", all_changed(lambda array: array.astype(np.int32))),
    "weights of double precision": ("dense", all_changed(lambda array: array.astype(np.float64))),
    "rows of complex numbers": ("rows", all_changed(lambda array: array.astype(np.complex64))),
    "ids with a sign": ("ids", all_changed(lambda array: array.astype(np.int64))),
    "texts of no dimension": ("golden", one_changed("cand_txt", lambda array: np.zeros((), array.dtype))),
    "fewer rows": ("rows", all_changed(lambda array: array[:-1])),
    "flat rows": ("rows", all_changed(np.ravel)),
    "no rows of items": ("rows", without_tensor("rows.item")),
    "no ids of items": ("ids", without_tensor("item.high")),
    "half of the ids": ("ids", one_changed("item.low", lambda array: array[:-1])),
    "ids in the rows of others": ("ids", all_changed(lambda array: array[::-1])),
    "two shops in each other's rows": ("ids", swapped("shop", 0, 1)),
    "golden ids of other rows": ("golden", one_changed("ids.brand.slots", lambda array: array + 1)),
    "golden ids without their rows": ("golden", without_tensor("ids.item.slots")),
    "half of the golden ids": ("golden", one_changed("ids.item.low", lambda array: array[:-1])),
    "an id in two rows": ("ids", all_changed(np.zeros_like)),
    "more ids than rows": ("ids", all_changed(lambda array: np.resize(array, 100_000))),
    "no scores": ("golden", without_tensor("scores")),
    "no candidates' numbers": ("golden", without_tensor("cand_num")),
    "no sessions": ("golden", all_changed(lambda array: array[:0])),
    "scores of other lists": ("golden", one_changed("scores", lambda array: array[:-1])),
    "scores of other candidates": ("golden", one_changed("scores", lambda array: array[:, :-1])),
    "a column of other lists": ("golden", one_changed("cand_num", lambda array: array[:-1])),
    "slots beyond the table": ("golden", one_changed("cand_id", lambda array: array + 10**6)),
}


@pytest.mark.parametrize("variant", SELF_CONSISTENT)
def test_files_that_agree_with_their_manifest_and_not_with_each_other_are_refused(
    copied: tuple[Path, str], variant: str
) -> None:
    folder, address = copied
    file, change = SELF_CONSISTENT[variant]
    rewrite(folder / address / f"{file}.safetensors", change)
    sealed = restate_files(folder, address)
    for runtime in RUNTIMES:
        with pytest.raises(ArtifactError):
            Loader(folder, runtime=runtime).load(sealed)


@pytest.mark.parametrize("change", ["missing", "surplus"])
def test_a_weight_that_is_missing_or_surplus_is_refused(copied: tuple[Path, str], change: str) -> None:
    folder, address = copied
    name = next(iter(load_file(folder / address / "dense.safetensors")))

    def other(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if change == "surplus":
            return {**weights, "surplus": np.ones(3, np.float32)}
        return {key: value for key, value in weights.items() if key != name}

    rewrite(folder / address / "dense.safetensors", other)

    def restate(document: dict[str, object]) -> None:
        files = document["files"]
        assert isinstance(files, dict)
        tensors = files["dense"]["tensors"]
        if change == "surplus":
            tensors["surplus"] = {"dtype": "float32", "shape": [3]}
        else:
            del tensors[name]

    sealed = reseal(folder, reseal_files(folder, address), restate)
    with pytest.raises(ArtifactError, match=r"weights|cannot be scored"):
        Loader(folder).load(sealed)


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


@pytest.mark.parametrize(
    "address", ["", "..", "A" * 64, "a" * 63, "a" * 64 + "\n", "../" + "a" * 61, "../../etc/passwd", "a" * 64]
)
def test_only_addresses_of_versions_are_opened(tmp_path: Path, address: str) -> None:
    with pytest.raises(ArtifactError):
        artifact.load(tmp_path, address)


def test_weights_that_are_not_finite_are_not_published(copied: tuple[Path, str], tmp_path: Path) -> None:
    version = artifact.load(*copied)
    version.params["rows.item"][3, 0] = torch.inf
    with pytest.raises(ArtifactError, match="not published"):
        writing.publish(tmp_path / "new", version.manifest, version.params, version.id_maps, version.golden)
    assert not (tmp_path / "new").exists()


def test_half_precision_rows_keep_golden_scores_equal(copied: tuple[Path, str], tmp_path: Path) -> None:
    version = artifact.load(*copied)
    narrow = writing.publish(
        tmp_path / "new", version.manifest, version.params, version.id_maps, version.golden, rows_dtype=torch.float16
    )
    loaded = artifact.load(tmp_path / "new", narrow)
    assert writing.verify_golden(loaded) == 0
    assert not torch.equal(loaded.params["rows.item"], version.params["rows.item"])
    wide = (tmp_path / "new" / narrow / "rows.safetensors").stat().st_size
    assert wide < 0.6 * (copied[0] / copied[1] / "rows.safetensors").stat().st_size


def check_equal(found: artifact.LoadedVersion, expected: artifact.LoadedVersion) -> None:
    assert writing.verify_golden(found) == 0
    assert found.params.keys() == expected.params.keys()
    for name, weight in expected.params.items():
        assert torch.equal(found.params[name], weight)
    arrays = found.id_maps.to_arrays(counts=False)
    for name, array in expected.id_maps.to_arrays(counts=False).items():
        np.testing.assert_array_equal(arrays[name], array)
    np.testing.assert_array_equal(found.golden_scores, expected.golden_scores)


def test_deltas_load_as_the_full_versions_of_the_same_run(
    published: tuple[Path, list[str]], published_deltas: tuple[Path, list[str]]
) -> None:
    folder, addresses = published_deltas
    full = [artifact.load(published[0], address) for address in published[1]]
    assert len(full) == len(addresses) > 2
    assert artifact.read_manifest(folder, addresses[0]).base is None
    near = artifact.load(folder, addresses[0])
    check_equal(near, full[0])
    for address, expected in zip(addresses[1:], full[1:], strict=True):
        assert artifact.read_manifest(folder, address).base == addresses[0]
        assert artifact.size(folder, address) < artifact.size(published[0], expected.sha256)
        check_equal(artifact.load(folder, address), expected)
        near = artifact.load(folder, address, [near])
        check_equal(near, expected)


def test_a_delta_with_other_rows_is_no_copy_to_put_the_next_one_into(tmp_path: Path) -> None:
    base = publish(tmp_path, "base", 1, model="din")
    first, second = (publish_delta(tmp_path, base, number, rows=[number, 7]) for number in (2, 3))
    third = publish_delta(tmp_path, base, 4, rows=[2, 3, 7])
    near, expected = artifact.load(tmp_path, first), artifact.load(tmp_path, second)
    check_equal(artifact.load(tmp_path, second, [near]), expected)
    shutil.rmtree(tmp_path / base)
    assert writing.verify_golden(artifact.load(tmp_path, third, [near])) == 0
    with pytest.raises(ArtifactError, match="its base is refused"):
        artifact.load(tmp_path, second, [near])


@pytest.mark.parametrize("base", ["of a delta", "of other tables", "no address"])
def test_a_base_that_is_no_full_version_of_the_same_tables_is_refused(delta: tuple[Path, str, str], base: str) -> None:
    folder, address, full = delta
    shutil.copytree(folder / address, folder / "another")
    if base == "no address":
        other = "../elsewhere"
    elif base == "of a delta":
        other = address
    else:
        shutil.copytree(folder / full, folder / "other")
        other = reseal(folder, "other", lambda document: document["capacities"].update(item=9))  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match=r"is no full version of prm|base '../elsewhere' is no address"):
        artifact.load(folder, reseal(folder, "another", lambda document: document.update(base=other)))


def test_a_delta_is_written_with_its_base(copied: tuple[Path, str]) -> None:
    version = artifact.load(*copied)
    head = msgspec.structs.replace(version.manifest, base=copied[1])
    with pytest.raises(ValueError, match="go together"):
        writing.publish(copied[0], head, version.params, version.id_maps, version.golden)


def test_changed_rows_that_are_not_finite_are_not_published(copied: tuple[Path, str]) -> None:
    folder, address = copied
    version = artifact.load(folder, address)
    changed = {table: np.array([1, 3]) for table in version.id_maps.by_name()}
    version.params["rows.item"][3, 0] = 1e6
    head = msgspec.structs.replace(version.manifest, base=address)
    with pytest.raises(ArtifactError, match=r"rows\.item holds NaN or infinity, not published"):
        writing.publish(
            folder,
            head,
            version.params,
            version.id_maps,
            version.golden,
            changed=changed,
            rows_dtype=torch.float16,
        )
