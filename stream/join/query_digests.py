"""Digests of closed queries: 8 bytes each in hourly buckets, searched by bisection.

They tell a click on a closed or evicted query from a click on an unknown one. A bucket holds sorted runs. A new run
merges with each run that is not larger, so a digest is merged at most log2(size of the bucket) times.

Source: docs/stream.md.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 8
_UNSORTED = 4_096
_DTYPE = np.dtype("<u8")


def digest(query_id: str) -> int:
    """Return 64 bits that identify a query."""
    return int.from_bytes(blake2b(query_id.encode(), digest_size=DIGEST_BYTES).digest(), "little")


def pack(digests: Sequence[int]) -> bytes:
    """Return digests as little-endian bytes."""
    return struct.pack(f"<{len(digests)}Q", *digests)


class QueryDigests:
    """A set of query digests that expires by the hour."""

    def __init__(self) -> None:
        self._runs: dict[int, list[array[int]]] = {}
        self._unsorted: dict[int, set[int]] = {}

    def add(self, hour: int, value: int) -> None:
        """Add a digest to the bucket of `hour`."""
        unsorted = self._unsorted.setdefault(hour, set())
        unsorted.add(value)
        if len(unsorted) >= _UNSORTED:
            self._add_run(hour, np.fromiter(unsorted, np.uint64, len(unsorted)))
            unsorted.clear()

    def add_packed(self, hour: int, packed: bytes | bytearray) -> None:
        """Add packed digests to the bucket of `hour`, all in one sort."""
        self._add_run(hour, np.frombuffer(packed, _DTYPE).astype(np.uint64))

    def _add_run(self, hour: int, digests: npt.NDArray[np.uint64]) -> None:
        runs = self._runs.setdefault(hour, [])
        run = _distinct(np.sort(digests))
        while runs and len(runs[-1]) <= len(run):
            run = merge_runs(np.frombuffer(runs.pop(), np.uint64), run)
        # Bisection reads single elements, which an array returns sooner than numpy.
        runs.append(array("Q", run.tobytes()))

    def has(self, query_id: str, from_hour: int) -> bool:
        """Return whether the bucket of `from_hour` or a later one holds a query."""
        value = digest(query_id)
        if any(value in unsorted for hour, unsorted in self._unsorted.items() if hour >= from_hour):
            return True
        for hour, runs in self._runs.items():
            for run in runs if hour >= from_hour else ():
                at = bisect_left(run, value)
                if at < len(run) and run[at] == value:
                    return True
        return False

    def forget(self, hour: int) -> None:
        """Drop the bucket of `hour`."""
        self._runs.pop(hour, None)
        self._unsorted.pop(hour, None)

    def __len__(self) -> int:
        """Return the number of digests; a digest that was added again later may count twice."""
        return sum(len(run) for runs in self._runs.values() for run in runs) + sum(map(len, self._unsorted.values()))


def merge_runs(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the sorted union of two sorted runs."""
    # The stable sort of numpy merges runs that are sorted already.
    return _distinct(np.sort(np.concatenate((left, right)), kind="stable"))


def _distinct(ordered: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    is_first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]
