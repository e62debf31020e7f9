"""A process that owns the warm store of one partition: `python -m tests.harness.store_owner FOLDER NAME`.

It writes rows, reports them on standard output, waits for a line on standard input, writes more rows, and prints its
process id and the number of its rows that it reads back.
"""

import os
import sys
from pathlib import Path

from stream.agents.stores import StoreFactory

NUM_ROWS = 20_000


def _rows(name: str, half: int) -> dict[bytes, bytes]:
    numbers = range(half * NUM_ROWS // 2, (half + 1) * NUM_ROWS // 2)
    return {b"%s-%06d" % (name.encode(), number): b"%06d" % number * 100 for number in numbers}


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(folder: Path, name: str) -> None:
    """Keep a store open until a line arrives on standard input."""
    factory = StoreFactory(folder)
    store = factory.open_warm(0)
    first, second = _rows(name, 0), _rows(name, 1)
    store.apply(first)
    _report("written")
    sys.stdin.readline()
    store.apply(second)
    _report(f"{os.getpid()} {len(dict(store.pairs()).items() & (first | second).items())}")
    store.close()
    factory.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
