"""Spool of impressions on disk while the broker is unavailable: batches, oldest first, bounded in bytes.

A batch is one file that is replaced as a whole, so a kill leaves it complete or absent. A new process finds the batches
of an earlier one. A batch that was sent but not deleted is sent again; the join recognises impressions by `event_id`.
Impressions name clients, so only the user of the process may read them.
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from serving.metrics import Metrics
from stream.files import PRIVATE_FILE, private_folder, replace_file

Pair = tuple[bytes, bytes]
_SUFFIX = ".spool"

_log = logging.getLogger(__name__)
_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


class Spool:
    """A folder of batches; used by one thread."""

    def __init__(self, folder: Path, max_bytes: int, metrics: Metrics) -> None:
        """Open the folder, which is created if it is missing.

        Args:
            folder: Folder of one process.
            max_bytes: Largest sum of the file sizes.
            metrics: Metrics of the process.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        private_folder(folder)
        found = (path for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal())
        self._sizes = {path: path.stat().st_size for path in sorted(found)}
        last = int(max(self._sizes).stem) if self._sizes else 0
        self._numbers = itertools.count(last + 1)
        self._damaged = metrics.spool_damaged

    @property
    def num_bytes(self) -> int:
        """Return the size of all batches in bytes."""
        return sum(self._sizes.values())

    def __len__(self) -> int:
        return len(self._sizes)

    def put(self, batch: Sequence[Pair]) -> bool:
        """Write a batch of (key, value) and return whether it is stored: it fits and the disk accepts it."""
        raw = msgspec.msgpack.encode(batch)
        if self.num_bytes + len(raw) > self._max_bytes:
            return False
        path = self._folder / f"{next(self._numbers):012d}{_SUFFIX}"
        try:
            replace_file(path, raw, mode=PRIVATE_FILE)
        except OSError:
            return False
        self._sizes[path] = len(raw)
        return True

    def oldest(self) -> tuple[Path, list[Pair]] | None:
        """Return the oldest batch, which stays until `discard`; a damaged file is set aside and counted."""
        while self._sizes:
            path = next(iter(self._sizes))
            try:
                return path, _decoder.decode(path.read_bytes())
            except (msgspec.MsgspecError, OSError):
                self._damaged.inc()
                del self._sizes[path]
                try:
                    path.replace(path.with_suffix(".damaged"))
                except OSError as error:
                    _log.warning("%s is damaged and left out: %s", path, error)
        return None

    def discard(self, path: Path) -> None:
        """Delete a delivered batch; one that the disk does not let go is not sent again by this process."""
        del self._sizes[path]
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s was delivered and stays, so the next process sends it again: %s", path, error)
