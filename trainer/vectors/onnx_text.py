"""Sentence encoders by path: an ONNX graph with its tokenizer, as sentence-transformers exports one.

The folder holds `model.onnx`, or `onnx/model.onnx`, and `tokenizer.json`. The graph takes `input_ids` and
`attention_mask`, and `token_type_ids` if it wants; the mean of its first output over a text's tokens is the row.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from stream.errors import ConfigError
from trainer.vectors.encoder import Encoder, Floats, digest_of, unit_rows
from trainer.vectors.onnx_graph import open_graph
from trainer.vectors.tokenizer import open_tokenizer

_GRAPHS: Final = ("model.onnx", "onnx/model.onnx")
_MAX_TOKENS: Final = 256
_PREPROCESSING: Final = f"mean of the first output over at most {_MAX_TOKENS} tokens, unit length"


def graph_of(folder: Path) -> Path | None:
    """Return the graph of a folder, None if it has none."""
    return next((folder / name for name in _GRAPHS if (folder / name).is_file()), None)


def from_folder(folder: Path, graph: Path) -> Encoder[str]:
    """Return the encoder of a folder with a graph and a tokenizer; its name is that of the folder.

    Raises:
        ConfigError: If graph or tokenizer cannot be read or used.
    """
    tokenizer_path = folder / "tokenizer.json"
    tokenizer = open_tokenizer(tokenizer_path)
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.enable_padding()
    session = open_graph(graph)
    wanted = [each.name for each in session.get_inputs()]
    unknown = sorted(set(wanted) - {"input_ids", "attention_mask", "token_type_ids"})
    if unknown:
        raise ConfigError(f"{graph}: unknown input {', '.join(unknown)}")

    def encode(texts: Sequence[str]) -> Floats:
        found = tokenizer.encode_batch(list(texts))
        ids = np.array([one.ids for one in found], np.int64)
        mask = np.array([one.attention_mask for one in found], np.int64)
        fields = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        try:
            rows = session.run([session.get_outputs()[0].name], {name: fields[name] for name in wanted})[0]
        except Exception as error:
            raise ConfigError(f"{graph}: no sentence encoder of such texts: {error}, got {texts[0][:80]!r}") from error
        if rows.ndim == 3:
            rows = (rows * mask[:, :, None]).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)[:, None]
        return unit_rows(rows)

    try:
        width = encode(["a"]).shape[1]
    except Exception as error:
        raise ConfigError(f"{graph}: no sentence encoder: {error}") from error
    return Encoder(
        name=folder.resolve().name,
        digest=digest_of(_PREPROCESSING, [tokenizer_path, graph]),
        width=width,
        encode=encode,
    )
