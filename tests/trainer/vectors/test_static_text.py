"""Tables of token vectors by path, and the table inside wordllama's wheel."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stream.errors import ConfigError
from tests.trainer.vectors.encoders import TABLE, expected, write_static, write_tokenizer
from trainer.vectors.static_text import wordllama
from trainer.vectors.text_encoders import open_text_encoder


def test_a_row_is_the_mean_of_the_tokens(tmp_path: Path) -> None:
    encoder = open_text_encoder(str(write_static(tmp_path / "mine")))
    assert (encoder.name, encoder.width) == ("mine", 6)
    rows = encoder.encode(["red shoe", "", "blue hat hat"])
    np.testing.assert_allclose(rows, [expected("red shoe"), np.zeros(6), expected("blue hat hat")], atol=1e-6)


def test_other_weights_have_another_digest(tmp_path: Path) -> None:
    first = open_text_encoder(str(write_static(tmp_path / "mine"))).digest
    save_file({"embeddings": TABLE * 2}, tmp_path / "mine" / "model.safetensors")
    assert open_text_encoder(str(tmp_path / "mine")).digest != first


def test_folders_without_an_encoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected wordllama, hashed, or a folder"):
        open_text_encoder(str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"expected one file .safetensors, found 0"):
        open_text_encoder(str(tmp_path))
    save_file({"embeddings": TABLE[:2]}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"tokenizer.json: no tokenizer"):
        open_text_encoder(str(tmp_path))
    write_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="2 rows for the 5 tokens"):
        open_text_encoder(str(tmp_path))
    save_file({"bias": TABLE[0]}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="expected one matrix of token vectors, found 0"):
        open_text_encoder(str(tmp_path))


def test_wordllama_sees_meaning_without_a_network() -> None:
    encoder = wordllama()
    rows = encoder.encode(["running shoes for men", "sneakers", "porcelain teapot"])
    assert rows.shape == (3, encoder.width)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
