"""Tokens of callers and keys of versions, read again while the service runs when a file that holds them has changed.

A change that cannot be read, as of a file that is half written, leaves what is in use; it is tried again at each look.

Source: docs/serving.md, "Tokens"; docs/training.md, "Signatures".
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from serving.tokens import Token
from stream.errors import ConfigError
from trainer.versions.signature import NO_KEYS, VersionKeys

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Tokens and keys as the settings have them.

    Attributes:
        tokens: Tokens of callers; none lets everybody call.
        keys: Keys of the signatures of versions.
        files: Files that hold them: the configuration file, and those that settings name.
    """

    tokens: tuple[Token, ...] = ()
    keys: VersionKeys = NO_KEYS
    files: tuple[Path, ...] = field(default=(), compare=False)


class CredentialWatch:
    """The credentials in use, replaced as a whole.

    Args:
        present: Credentials at the start.
        read: Reads them again; raises ConfigError if something is missing or refused. None keeps them.

    Attributes:
        present: Credentials in use.
        reason: Reason why a change is refused, None if there is none.
    """

    def __init__(self, present: Credentials, read: Callable[[], Credentials] | None = None) -> None:
        self.present = present
        self.reason: str | None = None
        self._read = read
        # The first look reads, since a file may have changed after the settings were read.
        self._seen: tuple[bytes, ...] | None = None

    def look(self) -> bool:
        """Read the credentials again if a file has another content, and return whether others are in use now."""
        if self._read is None or (seen := _contents(self.present.files)) == self._seen:
            return False
        try:
            found = self._read()
        except (ConfigError, OSError) as error:
            if self.reason != str(error):
                _log.error("changed tokens and keys are refused, the former ones stay in use: %s", error)
            self.reason = str(error)
            return False
        is_changed, self.reason = found != self.present, None
        # Files that are named for the first time are looked at, and read again, in the next round.
        self._seen = seen if found.files == self.present.files else None
        self.present = found
        if is_changed:
            _log.info("tokens and keys were read again; tokens: %d, keys: %d", len(found.tokens), len(found.keys.keys))
        return is_changed


def _contents(files: tuple[Path, ...]) -> tuple[bytes, ...]:
    """Return a hash of the content of each file; empty for one that cannot be read."""
    found = []
    for path in files:
        try:
            found.append(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            found.append(b"")
    return tuple(found)
