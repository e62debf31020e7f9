"""External sort: records of any number in order of their keys, with bounded memory.

Sorted runs that do not fit into memory lie in temporary files and are merged while they are read.

Source: Knuth, The Art of Computer Programming, volume 3, 5.4 (external sorting by merging).
"""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import IO, Self

import msgspec

Entry = tuple[int, int, bytes]
_LENGTH_BYTES = 4
# A tuple with two numbers and the head of its content.
_ENTRY_BYTES = 180
_BUFFER_BYTES = 1 << 18
# Each run is an open file.
_MOST_RUNS = 64
_key = itemgetter(0, 1)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


class SortedRuns:
    """Pairs of key and content, added in any order and read in the order of their keys.

    More than `memory_bytes` go to temporary files, each a sorted run.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._runs: list[IO[bytes]] = []
        self._held: list[Entry] = []
        self._num_bytes = 0
        self._num_added = 0

    def add(self, key: int, content: bytes) -> None:
        """Add a pair.

        Raises:
            OSError: If a temporary file cannot be written.
        """
        self._held.append((key, self._num_added, content))
        self._num_added += 1
        self._num_bytes += len(content) + _ENTRY_BYTES
        if self._num_bytes > self._memory_bytes:
            self._held.sort(key=_key)
            self._runs.append(_write(self._held))
            self._held, self._num_bytes = [], 0
            if len(self._runs) == _MOST_RUNS:
                merged = _write(heapq.merge(*map(_read, self._runs), key=_key))
                self.close()
                self._runs = [merged]

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield the pairs by key, once; pairs of equal keys in the order of their addition."""
        self._held.sort(key=_key)
        for key, _, content in heapq.merge(*map(_read, self._runs), self._held, key=_key):
            yield key, content

    def close(self) -> None:
        """Delete the temporary files."""
        for run in self._runs:
            run.close()
        self._runs = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_order(entries: Iterable[tuple[int, bytes]], memory_bytes: int = 64 << 20) -> Iterator[tuple[int, bytes]]:
    """Yield (key, content) pairs by key; pairs of equal keys keep their order.

    Args:
        entries: Pairs in any order.
        memory_bytes: Size of the pairs that are held in memory; more goes to temporary files.

    Raises:
        OSError: If a temporary file cannot be written.
    """
    with SortedRuns(memory_bytes) as runs:
        for key, content in entries:
            runs.add(key, content)
        yield from runs


def _write(entries: Iterable[Entry]) -> IO[bytes]:
    file = tempfile.TemporaryFile(buffering=_BUFFER_BYTES)  # noqa: SIM115 - the runs close it
    try:
        for entry in entries:
            raw = _encoder.encode(entry)
            file.write(len(raw).to_bytes(_LENGTH_BYTES, "little"))
            file.write(raw)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _read(file: IO[bytes]) -> Iterator[Entry]:
    while length := file.read(_LENGTH_BYTES):
        yield _decoder.decode(file.read(int.from_bytes(length, "little")))
