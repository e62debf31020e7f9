"""Ids and hashes that depend on their input alone.

Event ids are for sources that replay, simulate or are adapted: the same key gives the same id, so a repeated run is
deduplicated.
"""

import hmac
from collections.abc import Callable
from hashlib import blake2b, sha256

_RANDOM_BYTES = 10


def event_id(event_ts: int, *key: str | int) -> str:
    """Return a UUIDv7 whose time is `event_ts` and whose other bits are a hash of `key`.

    >>> event_id(1_767_571_200_000, 1, "click", 3)[:15]
    '019b8b74-1800-7'
    """
    random_bits = int.from_bytes(digest(*key), "big")
    return _uuid7(event_ts, random_bits >> 68, random_bits)


def uuid7(now_ms: int, random_bytes: Callable[[int], bytes]) -> str:
    """Return a new UUIDv7: 48 bits of time, then randomness, so that ids sort by time.

    Source: RFC 9562, 5.7.

    Example:
        >>> uuid7(0x017F22E279B0, lambda n: bytes.fromhex("0cc38c8c0c8c0c8c0c8c")[:n])
        '017f22e2-79b0-7cc3-8c8c-0c8c0c8c0c8c'
    """
    random_bits = int.from_bytes(random_bytes(_RANDOM_BYTES), "big")
    return _uuid7(now_ms, random_bits >> 64, random_bits)


def digest(*key: str | int) -> bytes:
    """Return 128 bits that depend on every part of `key` and on their borders."""
    return hashed("\0".join(map(str, key)).encode())


def hashed(raw: bytes) -> bytes:
    """Return 128 bits that depend on `raw`."""
    return blake2b(raw, digest_size=16).digest()


def query_hash(text: str, key: bytes) -> str:
    """Return the keyed hash that stands for a query text; case and surrounding space do not matter.

    Example:
        >>> query_hash(" Red Shoes", b"k") == query_hash("red shoes", b"k") != query_hash("red shoes", b"other")
        True
    """
    return blake2b(text.strip().casefold().encode(), digest_size=16, key=key[:64]).hexdigest()


def client_hash(client_id: str, key: bytes) -> str:
    """Return the keyed hash that stands for the id of a client: the first 32 hexadecimal digits of its HMAC-SHA256.

    Programs outside of Shelfwise compute it too, so it is the most common keyed hash.

    Source: RFC 2104.

    Example:
        >>> client_hash("c-1", b"k"), client_hash("c-1", b"k") != client_hash("c-1", b"other")
        ('19189b4fa8dcc860e2c4a664a738676d', True)
    """
    return hmac.new(key, client_id.encode(), sha256).hexdigest()[:32]


def hashed_ids(client_id: str, session_id: str | None, user_id: str | None, key: bytes) -> dict[str, str | None]:
    """Return the hashes of the client, the visit and the account by field; some sources name a client by its visit."""
    given = {"client_id": client_id, "session_id": session_id, "user_id": user_id}
    return {name: None if value is None else client_hash(value, key) for name, value in given.items()}


def _uuid7(ts: int, high: int, low: int) -> str:
    """Return the UUIDv7 of a time, the last 12 bits of `high` and the last 62 bits of `low`."""
    value = (ts & (1 << 48) - 1) << 80 | 7 << 76 | (high & 0xFFF) << 64 | 2 << 62 | low & (1 << 62) - 1
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
