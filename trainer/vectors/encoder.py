"""Encoders: named functions from texts or pictures to rows of numbers, identified by what decides the numbers."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder(Generic[Seen]):
    """An encoder of one modality.

    Attributes:
        name: Name for people, part of the name of the vector space.
        digest: sha256 of weights and preprocessing, in hexadecimal digits. Equal digests give equal rows.
        width: w, the length of a row.
        encode: Returns one row for each input, float32 (n, w).
    """

    name: str
    digest: str
    width: int
    encode: Callable[[Sequence[Seen]], Floats]


def digest_of(preprocessing: str, files: Iterable[Path] = ()) -> str:
    """Return the sha256 of a description and of the contents of files, as the digest of an encoder.

    Raises:
        OSError: If a file cannot be read.
    """
    found = hashlib.sha256(preprocessing.encode())
    for path in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def unit_rows(rows: NDArray[np.floating]) -> Floats:
    """Return the rows with length 1, in float32; a row of zeros stays one.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    units: NDArray[np.float64] = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return units.astype(np.float32)
