"""Digests of closed queries: 8 bytes each in hourly buckets, searched by bisection.

They tell a click on a closed or evicted query from a click on an unknown one.

Source: docs/stream.md.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b

HOUR_MS = 3_600_000
DIGEST_BYTES = 8
_UNSORTED = 4_096


def digest(query_id: str) -> int:
    """Return 64 bits that identify a query."""
    return int.from_bytes(blake2b(query_id.encode(), digest_size=DIGEST_BYTES).digest(), "little")


def pack(digests: Sequence[int]) -> bytes:
    """Return digests as little-endian bytes."""
    return struct.pack(f"<{len(digests)}Q", *digests)


def unpack(content: bytes) -> list[int]:
    """Return the digests in `content`."""
    return [int.from_bytes(content[i : i + DIGEST_BYTES], "little") for i in range(0, len(content), DIGEST_BYTES)]


class QueryDigests:
    """A set of query digests that expires by the hour."""

    def __init__(self) -> None:
        self._sorted: dict[int, array[int]] = {}
        self._unsorted: dict[int, set[int]] = {}

    def add(self, hour: int, value: int) -> None:
        """Add a digest to the bucket of `hour`."""
        unsorted = self._unsorted.setdefault(hour, set())
        unsorted.add(value)
        if len(unsorted) >= _UNSORTED:
            self._sorted[hour] = array("Q", sorted({*self._sorted.get(hour, ()), *unsorted}))
            unsorted.clear()

    def __contains__(self, query_id: str) -> bool:
        value = digest(query_id)
        if any(value in unsorted for unsorted in self._unsorted.values()):
            return True
        for bucket in self._sorted.values():
            at = bisect_left(bucket, value)
            if at < len(bucket) and bucket[at] == value:
                return True
        return False

    def forget(self, hour: int) -> None:
        """Drop the bucket of `hour`."""
        self._sorted.pop(hour, None)
        self._unsorted.pop(hour, None)

    def __len__(self) -> int:
        return sum(map(len, self._sorted.values())) + sum(map(len, self._unsorted.values()))
