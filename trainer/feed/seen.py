"""Seen sets: keys of trained sessions and purchases that expire by watermark time.

Source: docs/training.md.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Self

import numpy as np
from numpy.typing import NDArray


class SeenSet:
    """A set of 64-bit hashes of keys, each with the watermark at which it was added.

    >>> seen = SeenSet()
    >>> seen.add(b"q1", 10), seen.add(b"q1", 11)
    (True, False)
    >>> seen.forget(11)
    >>> seen.add(b"q1", 12)
    True
    """

    def __init__(self) -> None:
        self._added: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._added)

    def __contains__(self, key: bytes) -> bool:
        return _hash(key) in self._added

    def add(self, key: bytes, watermark_ts: int) -> bool:
        """Add a key and return whether it was new."""
        digest = _hash(key)
        if digest in self._added:
            return False
        self._added[digest] = watermark_ts
        return True

    def forget(self, before_ts: int) -> None:
        """Remove the keys added before this watermark."""
        self._added = {digest: ts for digest, ts in self._added.items() if ts >= before_ts}

    def to_arrays(self) -> dict[str, NDArray[np.uint64] | NDArray[np.int64]]:
        """Return hashes and watermarks, in the order added."""
        return {
            "hash": np.array(list(self._added), np.uint64),
            "added_ts": np.array(list(self._added.values()), np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Return the set that `to_arrays` wrote."""
        found = cls()
        found._added = dict(zip(arrays["hash"].tolist(), arrays["added_ts"].tolist(), strict=True))
        return found


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
