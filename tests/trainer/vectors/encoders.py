"""Small text encoders on disk, in the forms that shops bring them."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS = ("[UNK]", "red", "blue", "shoe", "hat")
TABLE = np.random.default_rng(3).normal(size=(len(WORDS), 6)).astype(np.float32)


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_static(folder: Path) -> Path:
    write_tokenizer(folder)
    save_file({"embeddings": TABLE}, folder / "model.safetensors")
    return folder


def write_graph(folder: Path, known: int = len(WORDS)) -> Path:
    """A graph whose first output is the row of each token, (batch, tokens, 6), of the first words alone."""
    write_tokenizer(folder)
    ids, mask = (
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("input_ids", "attention_mask")
    )
    out = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "t", 6])
    node = helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])
    graph = helper.make_graph([node], "g", [ids, mask], [out], [numpy_helper.from_array(TABLE[:known], "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "onnx").mkdir()
    onnx.save(model, folder / "onnx" / "model.onnx")
    return folder


def expected(words: str) -> np.ndarray:
    """The mean row of the words, at unit length."""
    rows = TABLE[[WORDS.index(word) for word in words.split()]].mean(axis=0, dtype=np.float64)
    return np.asarray(rows / np.linalg.norm(rows))
