"""Sentence encoders as ONNX graphs."""

from pathlib import Path

import numpy as np
import pytest

from stream.errors import ConfigError
from tests.trainer.vectors.encoders import expected, write_graph, write_tokenizer
from trainer.vectors.text_encoders import open_text_encoder


def test_a_row_is_the_mean_over_the_tokens_and_not_over_the_padding(tmp_path: Path) -> None:
    encoder = open_text_encoder(str(write_graph(tmp_path / "mine")))
    assert (encoder.name, encoder.width) == ("mine", 6)
    rows = encoder.encode(["red shoe", "blue hat hat"])
    np.testing.assert_allclose(rows, [expected("red shoe"), expected("blue hat hat")], atol=1e-6)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigError, match=r"model.onnx: no graph of ONNX"):
        open_text_encoder(str(tmp_path))


def test_a_graph_that_fails_on_some_texts_is_named_with_the_first(tmp_path: Path) -> None:
    encoder = open_text_encoder(str(write_graph(tmp_path / "mine", known=3)))
    with pytest.raises(ConfigError, match=r"(?s)model\.onnx: no sentence encoder of such texts: .*got 'red hat'"):
        encoder.encode(["red hat", "blue"])
