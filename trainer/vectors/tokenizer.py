"""Tokenizers of text encoders, in the form of the package tokenizers, which the extra `embed` installs."""

from pathlib import Path
from typing import TYPE_CHECKING

from stream.errors import ConfigError
from trainer.extras import INSTALL

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def open_tokenizer(path: Path) -> "Tokenizer":
    """Return the tokenizer of a file `tokenizer.json`.

    Raises:
        ConfigError: If the package is not installed, or the file is no tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: needs the package tokenizers; {INSTALL} installs it") from error
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        # The library raises plain Exception.
        raise ConfigError(f"{path}: no tokenizer: {error}") from error
