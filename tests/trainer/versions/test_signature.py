"""A version that is not signed with an accepted key is not loaded, and not parsed either."""

import hashlib
import hmac
import shutil
from pathlib import Path

import pytest

from stream.errors import ArtifactError
from tests.serving.world import publish, publish_delta
from trainer.versions import artifact, writing
from trainer.versions.signature import NO_KEYS, SigningSettings, VersionKeys

OLD, NEW, FOREIGN = (VersionKeys((bytes([number]) * 32,)) for number in (1, 2, 3))
BOTH = VersionKeys(NEW.keys + OLD.keys)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with a version and a delta of it, both signed with the old key, and their addresses."""
    folder = tmp_path_factory.mktemp("signed")
    base = publish(folder, "base", 1, keys=OLD)
    return folder, base, publish_delta(folder, base, 2, rows=[3], keys=OLD)


@pytest.fixture
def copied(signed: tuple[Path, str, str], tmp_path: Path) -> tuple[Path, str, str]:
    folder, base, delta = signed
    shutil.copytree(folder, tmp_path / "artifacts")
    return tmp_path / "artifacts", base, delta


def test_the_signature_is_the_hmac_of_the_manifest(signed: tuple[Path, str, str]) -> None:
    folder, base, _ = signed
    manifest = (folder / base / "manifest.json").read_bytes()
    expected = hmac.new(bytes([1]) * 32, manifest, hashlib.sha256).hexdigest()
    assert (folder / base / "manifest.sig").read_text() == expected


def test_a_version_and_a_delta_load_with_any_accepted_key(signed: tuple[Path, str, str]) -> None:
    folder, base, delta = signed
    for keys in (OLD, BOTH, NO_KEYS):
        held = artifact.load(folder, base, keys=keys)
        assert writing.verify_golden(artifact.load(folder, delta, [held], keys)) == 0
        assert writing.verify_golden(artifact.load(folder, delta, keys=keys)) == 0


@pytest.mark.parametrize("keys", [NEW, FOREIGN])
def test_a_signature_of_another_key_is_refused_by_the_address(signed: tuple[Path, str, str], keys: VersionKeys) -> None:
    folder, base, delta = signed
    for address in (base, delta):
        with pytest.raises(ArtifactError, match=f"^{address}: its signature is of another key or of another manifest$"):
            artifact.load(folder, address, keys=keys)


def of_another_lineage(folder: Path, address: str) -> None:
    other = publish(folder, "other", 1, keys=OLD)
    shutil.copy(folder / other / "manifest.sig", folder / address / "manifest.sig")


def cut(folder: Path, address: str) -> None:
    path = folder / address / "manifest.sig"
    path.write_bytes(path.read_bytes()[:63])


def not_ascii(folder: Path, address: str) -> None:
    (folder / address / "manifest.sig").write_bytes(b"\xff\x00" * 32)


def empty(folder: Path, address: str) -> None:
    (folder / address / "manifest.sig").write_bytes(b"")


def upper_case(folder: Path, address: str) -> None:
    path = folder / address / "manifest.sig"
    path.write_bytes(path.read_bytes().upper())


def missing(folder: Path, address: str) -> None:
    (folder / address / "manifest.sig").unlink()


def link(folder: Path, address: str) -> None:
    path = folder / address / "manifest.sig"
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")


def huge(folder: Path, address: str) -> None:
    (folder / address / "manifest.sig").write_bytes(b"0" * 2_000)


def a_folder(folder: Path, address: str) -> None:
    (folder / address / "manifest.sig").unlink()
    (folder / address / "manifest.sig").mkdir()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (of_another_lineage, "its signature is of another key or of another manifest"),
        (cut, "its signature is of"),
        (not_ascii, "its signature is of"),
        (empty, "its signature is of"),
        (upper_case, "its signature is of"),
        (missing, r"it is not signed, and signing\.key asks for a signature"),
        (link, "Too many levels of symbolic links"),
        (huge, "2000 bytes, expected at most 1024"),
        (a_folder, "Is a directory"),
    ],
)
def test_a_wrong_signature_is_refused(copied: tuple[Path, str, str], damage: object, reason: str) -> None:
    folder, base, delta = copied
    assert callable(damage)
    damage(folder, base)
    with pytest.raises(ArtifactError, match=f"{base}.*{reason}"):
        artifact.load(folder, base, keys=OLD)
    with pytest.raises(ArtifactError, match=f"^{delta}: its base is refused: {base}.*{reason}"):
        artifact.load(folder, delta, keys=OLD)


def test_a_delta_without_a_signature_is_refused_though_its_base_has_one(copied: tuple[Path, str, str]) -> None:
    folder, base, delta = copied
    held = artifact.load(folder, base, keys=OLD)
    missing(folder, delta)
    with pytest.raises(ArtifactError, match=f"^{delta}: it is not signed"):
        artifact.load(folder, delta, [held], OLD)


def test_the_signature_is_checked_before_anything_is_parsed(tmp_path: Path) -> None:
    raw = b'{"lineage": '
    address = hashlib.sha256(raw).hexdigest()
    (tmp_path / address).mkdir()
    (tmp_path / address / "manifest.json").write_bytes(raw)
    with pytest.raises(ArtifactError, match="it is not signed"):
        artifact.read_manifest(tmp_path, address, OLD)


def test_a_version_that_is_written_again_gets_the_signature_of_the_present_key(copied: tuple[Path, str, str]) -> None:
    folder, base, _ = copied
    assert publish(folder, "base", 1, keys=NEW) == base
    assert writing.verify_golden(artifact.load(folder, base, keys=NEW)) == 0
    assert publish(folder, "base", 1) == base
    artifact.load(folder, base, keys=NEW)


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    address = publish(tmp_path, "base", 1)
    assert not (tmp_path / address / "manifest.sig").exists()


@pytest.mark.parametrize("text", ["5" * 63, "5" * 65, "5" * 32, "g" * 64, "ä" * 64, "5" * 63 + "\n", " " + "5" * 64])
@pytest.mark.parametrize("name", ["key", "accepted_key"])
def test_a_key_of_wrong_length_or_form_is_refused_and_not_printed(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected 64 hexadecimal digits") as caught:
        SigningSettings(**{"key": "6" * 64, name: text})
    assert text not in str(caught.value)


def test_a_second_key_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="accepted_key is set and key is not"):
        SigningSettings(accepted_key="5" * 64)


def test_keys_are_not_shown() -> None:
    settings = SigningSettings(key="5" * 64, accepted_key="6" * 64)
    keys = VersionKeys.of(settings)
    assert keys.keys == (b"U" * 32, b"f" * 32)
    assert "5555" not in f"{settings!r}{keys!r}"
    assert not VersionKeys.of(SigningSettings())
