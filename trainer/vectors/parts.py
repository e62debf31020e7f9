"""Parts: encoded batches on disk, each under the digest of what it was made of.

A run that was killed finds the finished parts again. A part never fits other content or another encoder, because both
are in its name.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from stream.files import replace_file
from trainer.vectors.encoder import Floats

_ROWS = "rows"


class Parts:
    """The parts in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str, shape: tuple[int, int]) -> NDArray[np.float16] | None:
        """Return the rows of a part, None if it is missing, damaged or of another shape."""
        try:
            rows: NDArray[np.generic] = load_tensors(self._path(key).read_bytes())[_ROWS]
        except (FileNotFoundError, safetensors.SafetensorError, KeyError):
            return None
        return rows.astype(np.float16, copy=False) if rows.shape == shape and rows.dtype == np.float16 else None

    def put(self, key: str, rows: Floats) -> None:
        """Write a part, whole or not at all.

        Raises:
            OSError: If the file cannot be written.
        """
        replace_file(self._path(key), save_tensors({_ROWS: rows.astype(np.float16)}))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def key_of(digest: str, contents: Iterable[bytes]) -> str:
    """Return the key of the part that an encoder with this digest makes of these contents.

    >>> key_of("a", [b"one", b"two"]) == key_of("a", [b"onet", b"wo"])
    False
    """
    found = hashlib.sha256(digest.encode())
    for content in contents:
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()
