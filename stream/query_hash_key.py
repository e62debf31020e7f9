"""The key of the hash that replaces query texts: one per shop, so that a query has the same hash in every record."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stream.files import PRIVATE_FILE, replace_file
from stream.settings import secret

KEY_BYTES = 32
_FILE_NAME = "query_hash_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """Settings that protect personal data.

    Attributes:
        query_hash_key: Secret key of the hash of query texts, the same for all processes of a shop; empty = a random
            key that the first process makes and keeps under its home folder.
    """

    query_hash_key: str = secret()


def query_hash_key(settings: PrivacySettings, folder: Path, random_bytes: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return the key of the settings, else the key in `folder`, which is made if it is missing."""
    if settings.query_hash_key:
        return settings.query_hash_key.encode()
    path = folder / _FILE_NAME
    if not path.exists():
        replace_file(path, random_bytes(KEY_BYTES), mode=PRIVATE_FILE)
    return path.read_bytes()
