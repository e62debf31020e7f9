"""External sort: records of any number in order of their keys, with bounded memory.

Sorted runs that do not fit into memory lie in temporary files and are merged while they are read.

Source: Knuth, The Art of Computer Programming, volume 3, 5.4 (external sorting by merging).
"""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from operator import itemgetter
from typing import IO

import msgspec

Entry = tuple[int, int, bytes]
_LENGTH_BYTES = 4
_key = itemgetter(0, 1)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def in_order(entries: Iterable[tuple[int, bytes]], memory_bytes: int = 64 << 20) -> Iterator[tuple[int, bytes]]:
    """Yield (key, content) pairs by key; pairs of equal keys keep their order.

    Args:
        entries: Pairs in any order.
        memory_bytes: Size of the content that is held in memory; more goes to temporary files.

    Raises:
        OSError: If a temporary file cannot be written.
    """
    with ExitStack() as stack:
        runs: list[IO[bytes]] = []
        held: list[Entry] = []
        num_bytes = 0
        for number, (key, content) in enumerate(entries):
            held.append((key, number, content))
            num_bytes += len(content) + 100
            if num_bytes > memory_bytes:
                held.sort(key=_key)
                runs.append(_write(stack, held))
                held, num_bytes = [], 0
        held.sort(key=_key)
        for key, _, content in heapq.merge(*map(_read, runs), held, key=_key):
            yield key, content


def _write(stack: ExitStack, entries: Iterable[Entry]) -> IO[bytes]:
    file = stack.enter_context(tempfile.TemporaryFile(buffering=1 << 20))  # noqa: SIM115 - the stack closes it
    for entry in entries:
        raw = _encoder.encode(entry)
        file.write(len(raw).to_bytes(_LENGTH_BYTES, "little"))
        file.write(raw)
    file.seek(0)
    return file


def _read(file: IO[bytes]) -> Iterator[Entry]:
    while length := file.read(_LENGTH_BYTES):
        yield _decoder.decode(file.read(int.from_bytes(length, "little")))
