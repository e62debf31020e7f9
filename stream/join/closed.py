"""Which queries are over: 8-byte digests in hourly buckets, searched by bisection.

A click on such a query is `too_late` (or `evicted`), on an unknown one `no_impression`.

Source: STREAM.md 5.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b

HOUR_MS = 3_600_000
DIGEST_BYTES = 8
_RECENT = 4_096


def digest(query_id: str) -> int:
    """Return 64 bits that stand for a query."""
    return int.from_bytes(blake2b(query_id.encode(), digest_size=DIGEST_BYTES).digest(), "little")


def pack(digests: Sequence[int]) -> bytes:
    """Return digests as little-endian bytes."""
    return struct.pack(f"<{len(digests)}Q", *digests)


def unpack(content: bytes) -> list[int]:
    """Return the digests in `content`."""
    return [int.from_bytes(content[i : i + DIGEST_BYTES], "little") for i in range(0, len(content), DIGEST_BYTES)]


class ClosedQueries:
    """A set of query digests that forgets by the hour; 8 bytes per query."""

    def __init__(self) -> None:
        self._sorted: dict[int, array[int]] = {}
        self._recent: dict[int, set[int]] = {}

    def add(self, hour: int, value: int) -> None:
        """Remember a digest in the bucket of `hour`."""
        recent = self._recent.setdefault(hour, set())
        recent.add(value)
        if len(recent) >= _RECENT:
            self._sorted[hour] = array("Q", sorted({*self._sorted.get(hour, ()), *recent}))
            recent.clear()

    def __contains__(self, query_id: str) -> bool:
        value = digest(query_id)
        if any(value in recent for recent in self._recent.values()):
            return True
        for bucket in self._sorted.values():
            at = bisect_left(bucket, value)
            if at < len(bucket) and bucket[at] == value:
                return True
        return False

    def forget(self, hour: int) -> None:
        """Drop the bucket of `hour`."""
        self._sorted.pop(hour, None)
        self._recent.pop(hour, None)

    def __len__(self) -> int:
        return sum(map(len, self._sorted.values())) + sum(map(len, self._recent.values()))
