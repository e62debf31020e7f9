"""Static text encoders by path: a table with a vector per token, and the mean of a text's tokens.

The folder holds `tokenizer.json` in the form of the package tokenizers and one safetensors file with one matrix, a row
per token. wordllama and model2vec distribute their models so. Nothing is downloaded.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import load_file

from stream.errors import ConfigError
from trainer.extras import INSTALL
from trainer.vectors.encoder import Encoder, Floats, digest_of, unit_rows
from trainer.vectors.tokenizer import open_tokenizer

WORDLLAMA: Final = "wordllama"
_WORDLLAMA_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_WORDLLAMA_TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"
_PREPROCESSING: Final = "mean of token vectors, no special tokens, unit length"


def wordllama() -> Encoder[str]:
    """Return the encoder whose weights are inside the wheel of the package wordllama.

    Raises:
        ConfigError: If the package is not installed.
    """
    found = importlib.util.find_spec(WORDLLAMA)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"--text-encoder {WORDLLAMA}: {INSTALL} installs it; or choose --text-encoder hashed")
    # Its own class downloads what it does not find, so that the files are read here.
    folder = Path(next(iter(found.submodule_search_locations)))
    return _encoder(WORDLLAMA, folder / _WORDLLAMA_TOKENIZER, folder / _WORDLLAMA_WEIGHTS)


def from_folder(folder: Path) -> Encoder[str]:
    """Return the encoder of a folder with a tokenizer and a table; its name is that of the folder.

    Raises:
        ConfigError: If the folder does not hold them, or the package tokenizers is not installed.
    """
    tables = sorted(folder.glob("*.safetensors"))
    if len(tables) != 1:
        raise ConfigError(f"--text-encoder {folder}: expected one file .safetensors, found {len(tables)}")
    return _encoder(folder.resolve().name, folder / "tokenizer.json", tables[0])


def _encoder(name: str, tokenizer_path: Path, table_path: Path) -> Encoder[str]:
    table, tokenizer = _table(table_path), open_tokenizer(tokenizer_path)
    if tokenizer.get_vocab_size() > len(table):
        raise ConfigError(
            f"{table_path}: {len(table)} rows for the {tokenizer.get_vocab_size()} tokens of {tokenizer_path}"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(texts: Sequence[str]) -> Floats:
        found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        rows = np.zeros((len(found), table.shape[1]))
        for number, one in enumerate(found):
            if one.ids:
                rows[number] = table[one.ids].mean(axis=0, dtype=np.float64)
        return unit_rows(rows)

    return Encoder(
        name=name, digest=digest_of(_PREPROCESSING, [tokenizer_path, table_path]), width=table.shape[1], encode=encode
    )


def _table(path: Path) -> NDArray[np.floating]:
    try:
        tensors = load_file(path)
    except (OSError, safetensors.SafetensorError, TypeError) as error:
        raise ConfigError(f"{path}: no table of token vectors: {error}") from error
    matrices = [array for array in tensors.values() if array.ndim == 2 and np.issubdtype(array.dtype, np.floating)]
    if len(matrices) != 1:
        raise ConfigError(f"{path}: expected one matrix of token vectors, found {len(matrices)}")
    return np.asarray(matrices[0])
