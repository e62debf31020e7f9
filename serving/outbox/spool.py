"""Impressions on disk while the broker is away: whole batches, oldest first, bounded in bytes.

A batch is one file, renamed into place, so a kill leaves it whole or absent. Batches of a former process are found
again. A batch that was sent and not yet deleted is sent again: the join knows an impression by its `event_id`.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from stream.files import replace_file

Pair = tuple[bytes, bytes]
_SUFFIX = ".spool"

_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


class Spool:
    """A folder of batches; used by one thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._sizes = {path: path.stat().st_size for path in sorted(folder.glob(f"*{_SUFFIX}"))}
        last = int(max(self._sizes).stem) if self._sizes else 0
        self._numbers = itertools.count(last + 1)
        self.num_damaged = 0

    @property
    def num_bytes(self) -> int:
        """Bytes that wait."""
        return sum(self._sizes.values())

    def __len__(self) -> int:
        return len(self._sizes)

    def put(self, batch: Sequence[Pair]) -> bool:
        """Keep a batch of (key, value); False when there is no room for it, or the disk refused."""
        raw = msgspec.msgpack.encode(batch)
        if self.num_bytes + len(raw) > self._max_bytes:
            return False
        path = self._folder / f"{next(self._numbers):012d}{_SUFFIX}"
        try:
            replace_file(path, raw)
        except OSError:
            return False
        self._sizes[path] = len(raw)
        return True

    def oldest(self) -> tuple[Path, list[Pair]] | None:
        """Return the oldest batch, which stays until `discard`; damaged ones are set aside and counted."""
        while self._sizes:
            path = next(iter(self._sizes))
            try:
                return path, _decoder.decode(path.read_bytes())
            except (msgspec.MsgspecError, OSError):
                self.num_damaged += 1
                if path.exists():
                    path.replace(path.with_suffix(".damaged"))
                del self._sizes[path]
        return None

    def discard(self, path: Path) -> None:
        """Forget a batch that was delivered."""
        path.unlink(missing_ok=True)
        del self._sizes[path]
