from dataclasses import replace
from pathlib import Path

import pytest

from stream import db
from stream.errors import ArtifactError
from tests.trainer.harness import LINEAGE, feed, make_loop
from tests.trainer.session_log import make_log
from trainer.configs import MODEL_PROFILES
from trainer.versions import checkpoint


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    feed(make_loop(tmp_path, engine), make_log(90))
    return tmp_path / "checkpoints"


def test_three_are_kept_and_the_newest_wins(trained: Path) -> None:
    names = sorted(path.name for path in trained.glob("0*"))
    assert len(names) == 3
    newest = checkpoint.newest(trained)
    assert newest is not None
    assert newest.state.boundary_number == int(names[-1][:12])


def test_an_empty_or_missing_folder_is_a_fresh_start(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "missing") is None


@pytest.mark.parametrize("file", ["manifest.json", "weights.safetensors", "ids.safetensors", "seen.safetensors"])
def test_a_damaged_one_gives_way_to_the_one_before(trained: Path, file: str) -> None:
    names = sorted(path.name for path in trained.glob("0*"))
    path = trained / names[-1] / file
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    found = checkpoint.newest(trained)
    assert found is not None
    assert found.state.boundary_number == int(names[-2][:12])


def test_a_half_written_one_is_invisible(trained: Path) -> None:
    before = checkpoint.newest(trained)
    (trained / ".tmp-77").mkdir()
    (trained / ".tmp-77" / "weights.safetensors").write_bytes(b"half")
    after = checkpoint.newest(trained)
    assert before is not None
    assert after is not None
    assert after.state == before.state


def test_starting_afresh_over_damaged_checkpoints_is_refused(trained: Path) -> None:
    for path in trained.glob("0*"):
        (path / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match="none of 3"):
        checkpoint.newest(trained)


def test_a_checkpoint_of_another_model_is_refused(trained: Path, tmp_path: Path) -> None:
    engine = db.create("sqlite://")
    db.metadata.create_all(engine)
    other = replace(LINEAGE, model="mlp", config=MODEL_PROFILES["mlp"]["tiny"])
    with pytest.raises(ArtifactError, match="this trainer is"):
        make_loop(tmp_path, engine, lineage=other).start()
