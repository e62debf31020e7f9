"""Vector spaces on disk: what names one, and which encoders are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stream.errors import ArtifactError, ConfigError
from trainer.vectors import hashed_text, space
from trainer.vectors.reducer import fit

ENCODER = hashed_text.encoder()


def make_space(width: int = 3) -> space.VectorSpace:
    rows = np.random.default_rng(2).normal(size=(20, ENCODER.width))
    return space.of(ENCODER, fit(rows, width))


def test_a_space_is_read_back_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    assert space.read(path) is None
    written = make_space()
    space.write(path, written)
    found = space.read(path)
    assert found is not None
    assert found.definition == written.definition
    assert found.reducer.digest == written.reducer.digest
    assert found.definition.name.startswith("hashed:")
    space.check(path, found, ENCODER, 3)


def test_encoder_weights_and_reducer_each_make_another_name() -> None:
    first = make_space()
    others = [
        space.of(replace(ENCODER, name="other"), first.reducer),
        space.of(replace(ENCODER, digest="0"), first.reducer),
    ]
    assert len({each.definition.name for each in (first, make_space(4), *others)}) == 4


def test_another_encoder_is_refused_with_both_names(tmp_path: Path) -> None:
    changed = replace(ENCODER, digest="f" * 64)
    with pytest.raises(
        ConfigError, match=rf"{make_space().definition.name} .*digest {ENCODER.digest[:12]}.*digest f{{12}}"
    ):
        space.check(tmp_path, make_space(), changed, 3)
    with pytest.raises(ConfigError, match=r"--width 4: .* has vectors of 3 numbers"):
        space.check(tmp_path, make_space(), ENCODER, 4)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    space.write(path, make_space())
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:-1] + bytes([whole[-1] ^ 1]), b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"text\.safetensors"):
            space.read(path)
