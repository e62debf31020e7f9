"""The secret key of query hashes: one per shop, so that a query has the same hash wherever it is recorded."""

import os
from collections.abc import Callable
from pathlib import Path

from serving.settings import ServingSettings
from stream.files import replace_file

PEPPER_BYTES = 32


def pepper(settings: ServingSettings, folder: Path, random_bytes: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return the setting, else the key kept in `folder`, made when it is first asked for."""
    if settings.pepper:
        return settings.pepper.encode()
    path = folder / "pepper"
    if not path.exists():
        replace_file(path, random_bytes(PEPPER_BYTES), mode=0o600)
    return path.read_bytes()
