"""Ids and hashes that depend on their input alone.

Event ids are for sources that replay, simulate or are adapted: the same key gives the same id, so a repeated run is
deduplicated.
"""

from hashlib import blake2b


def event_id(event_ts: int, *key: str | int) -> str:
    """Return a UUIDv7 whose time is `event_ts` and whose other bits are a hash of `key`.

    >>> event_id(1_767_571_200_000, 1, "click", 3)[:15]
    '019b8b74-1800-7'
    """
    random_bits = int.from_bytes(digest(*key), "big")
    high, low = random_bits >> 68 & 0xFFF, random_bits & (1 << 62) - 1
    value = (event_ts & (1 << 48) - 1) << 80 | 7 << 76 | high << 64 | 2 << 62 | low
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def digest(*key: str | int) -> bytes:
    """Return 128 bits that depend on every part of `key` and on their borders."""
    return hashed("\0".join(map(str, key)).encode())


def hashed(raw: bytes) -> bytes:
    """Return 128 bits that depend on `raw`."""
    return blake2b(raw, digest_size=16).digest()


def query_hash(text: str, pepper: bytes) -> str:
    """Return the keyed hash that stands for a query text; case and surrounding space do not matter.

    Example:
        >>> query_hash(" Red Shoes", b"k") == query_hash("red shoes", b"k") != query_hash("red shoes", b"other")
        True
    """
    return blake2b(text.strip().casefold().encode(), digest_size=16, key=pepper[:64]).hexdigest()
