"""Reader of the lines that a child wrote into its log for the person who watches the demo."""

from collections.abc import Iterator
from pathlib import Path


class ToldLines:
    """New lines of a log that begin with a mark, each returned once and without it."""

    def __init__(self, log: Path, mark: str) -> None:
        self._log = log
        self._mark = mark
        self._position = 0
        self._rest = ""

    def read(self) -> Iterator[str]:
        """Yield the marked lines that were completed since the last call."""
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._position)
            raw = log.read()
        self._position += len(raw)
        *complete, self._rest = (self._rest + raw.decode(errors="replace")).split("\n")
        yield from (line.removeprefix(self._mark) for line in complete if line.startswith(self._mark))
