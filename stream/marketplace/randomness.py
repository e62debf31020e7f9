"""Counter-based random numbers and ids: what a key draws does not depend on what was drawn before it.

Two runs with other ranked lists but the same key therefore share their random numbers.
"""

from hashlib import blake2b

import numpy as np


def generator(*key: str | int) -> np.random.Generator:
    """Return the generator of `key`.

    >>> generator(1, "client", 7).integers(1000) == generator(1, "client", 7).integers(1000)
    np.True_
    >>> generator(1, "client", 7).integers(1000) == generator(1, "client", 8).integers(1000)
    np.False_
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(key), "little")))


def event_id(event_ts: int, *key: str | int) -> str:
    """Return a UUIDv7 whose time is `event_ts` and whose other bits are a hash of `key`.

    >>> event_id(1_767_571_200_000, 1, "click", 3)[:19]
    '019b8b84-6400-732c-'
    """
    random_bits = int.from_bytes(_digest(key), "big")
    high, low = random_bits >> 68 & 0xFFF, random_bits & (1 << 62) - 1
    value = (event_ts & (1 << 48) - 1) << 80 | 7 << 76 | high << 64 | 2 << 62 | low
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _digest(key: tuple[str | int, ...]) -> bytes:
    return blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
