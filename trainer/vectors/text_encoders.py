"""The choice of a text encoder: one that comes with a package, one without weights, or one by path."""

from pathlib import Path

from stream.errors import ConfigError
from trainer.vectors import hashed_text, onnx_text, static_text
from trainer.vectors.encoder import Encoder


def open_text_encoder(name: str) -> Encoder[str]:
    """Return the encoder that `--text-encoder` names.

    Args:
        name: `wordllama`, `hashed`, or a folder with a tokenizer and either a graph or a table of token vectors.

    Raises:
        ConfigError: If there is no such encoder, or what it needs is not installed.
    """
    if name == static_text.WORDLLAMA:
        return static_text.wordllama()
    if name == hashed_text.NAME:
        return hashed_text.encoder()
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigError(
            f"--text-encoder {name}: expected {static_text.WORDLLAMA}, {hashed_text.NAME}, or a folder with an encoder"
        )
    graph = onnx_text.graph_of(folder)
    return static_text.from_folder(folder) if graph is None else onnx_text.from_folder(folder, graph)
