"""Columns of numbers as little-endian bytes."""

import struct
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=2_048)
def packer(code: str, n: int) -> Callable[..., bytes]:
    """Return what packs `n` numbers of a `struct` format code; it raises struct.error on those out of range.

    >>> packer("H", 2)(1, 256).hex()
    '01000001'
    """
    return struct.Struct(f"<{n}{code}").pack
