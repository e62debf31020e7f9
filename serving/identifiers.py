"""Identifiers of events, and the order of equal scores; time and randomness come in as arguments."""

import hashlib
from collections.abc import Callable

_RAND_BYTES = 10


def uuid7(now_ms: int, random_bytes: Callable[[int], bytes]) -> str:
    """Return a UUID version 7: 48 bits of time, then randomness, so that ids sort by time.

    Source: RFC 9562, 5.7.

    Example:
        >>> uuid7(0x017F22E279B0, lambda n: bytes.fromhex("0cc38c8c0c8c0c8c0c8c")[:n])
        '017f22e2-79b0-7cc3-8c8c-0c8c0c8c0c8c'
    """
    rand = int.from_bytes(random_bytes(_RAND_BYTES), "big")
    rand_a, rand_b = rand >> 64 & 0xFFF, rand & (1 << 62) - 1
    value = (now_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def tie_break(query_id: str, item_id: str) -> bytes:
    """Return what orders items of equal score: the same for the same query and item, unrelated to the incoming order.

    Example:
        >>> tie_break("q-1", "i-1") == tie_break("q-1", "i-1") != tie_break("q-2", "i-1")
        True
    """
    return hashlib.blake2b(item_id.encode(), digest_size=8, key=hashlib.sha256(query_id.encode()).digest()).digest()
