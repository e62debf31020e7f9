"""Reducer: principal components that take an encoder's rows to the width of the vectors that models read.

Source: Jolliffe 2002, Principal Component Analysis, section 2.1.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.errors import ConfigError
from trainer.vectors.encoder import Floats, unit_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Reducer:
    """A projection onto principal components, followed by a scaling to unit length.

    Shapes: mean (w,), components (D, w), both float32.
    """

    mean: Floats
    components: Floats

    @property
    def digest(self) -> str:
        """sha256 of mean and components, in hexadecimal digits."""
        return hashlib.sha256(self.mean.tobytes() + self.components.tobytes()).hexdigest()

    def __call__(self, rows: NDArray[np.floating]) -> NDArray[np.float16]:
        """Return the vectors of an encoder's rows, of unit length: models and diversity compare them by cosine.

        Shapes: rows (n, w); result (n, D).
        """
        return unit_rows((rows.astype(np.float32) - self.mean) @ self.components.T).astype(np.float16)


def fit(rows: NDArray[np.floating], width: int) -> Reducer:
    """Return the reducer to the `width` components with the largest variance over `rows`.

    The sign of a component is that of its largest entry, so that equal rows give equal components.

    Shapes: rows (n, w).

    Raises:
        ConfigError: If there are fewer than D + 1 rows that differ, or the rows are narrower than D.
    """
    num_distinct = len(np.unique(rows, axis=0))
    if width > rows.shape[1]:
        raise ConfigError(f"--width {width}: rows of the encoder have {rows.shape[1]} numbers; choose a smaller width")
    if num_distinct <= width:
        raise ConfigError(
            f"--width {width}: {width + 1} items that differ are needed to fit it, found {num_distinct}; "
            "choose a smaller width, or begin with a larger file"
        )
    wide = rows.astype(np.float64)
    mean = wide.mean(axis=0)
    # Eigenvectors come in the order of rising variance.
    _, vectors = np.linalg.eigh((wide - mean).T @ (wide - mean))
    components = vectors[:, ::-1][:, :width].T
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    # safetensors writes the memory of an array, which must therefore be in the order of its rows.
    signed = np.ascontiguousarray(components * np.sign(largest), np.float32)
    return Reducer(mean=mean.astype(np.float32), components=signed)
