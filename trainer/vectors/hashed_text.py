"""Text encoder without weights: hashed character n-grams, so that titles have vectors where no encoder is installed.

Titles are near each other if they share parts of words; meaning beyond that is not seen.

Source: Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning.
"""

import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np

from trainer.vectors.encoder import Encoder, Floats, digest_of, unit_rows

NAME: Final = "hashed"
_WIDTH: Final = 512
_LENGTHS: Final = (3, 4, 5)
# Fibonacci hashing: the high bits of the product depend on all bits of the checksum, whose low bits are linear.
_MULTIPLIER: Final = np.uint64(11_400_714_819_323_198_485)
_PREPROCESSING: Final = f"character {_LENGTHS}-grams of casefolded words, crc32, width {_WIDTH}, signed, unit length"


def encoder() -> Encoder[str]:
    """Return the encoder."""
    return Encoder(name=NAME, digest=digest_of(_PREPROCESSING), width=_WIDTH, encode=_encode)


def _encode(texts: Sequence[str]) -> Floats:
    counts = np.zeros((len(texts), _WIDTH))
    for row, text in zip(counts, texts, strict=True):
        padded = f" {' '.join(text.casefold().split())} "
        grams = [padded[at : at + n] for n in _LENGTHS for at in range(len(padded) - n + 1)]
        sums = np.fromiter((zlib.crc32(gram.encode()) for gram in grams), np.uint64, len(grams)) * _MULTIPLIER
        np.add.at(row, (sums >> np.uint64(55)).astype(np.int64), np.where(sums >> np.uint64(54) & np.uint64(1), 1, -1))
    return unit_rows(counts)
