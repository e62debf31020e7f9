"""The keys of the hashes that replace query texts and client ids.

One per shop, so that a query or a client has the same hash in every record.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stream.errors import ConfigError
from stream.files import PRIVATE_FILE, create_file
from stream.setting_fields import secret

KEY_BYTES = 32
MIN_CLIENT_ID_KEY = 32
"""Characters of the key of client ids: few ids are possible, so a short key would be found by trying."""
_FILE_NAME = "query_hash_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """Settings that protect personal data.

    Attributes:
        query_hash_key: Secret key of the hash of query texts, the same for all processes of a shop; empty = a random
            key that the first process makes and keeps under its home folder.
        client_id_key: Secret key of the hash that replaces the ids of clients, visits and accounts in rank requests,
            posted events and ingested events, the same for all of them, of at least 32 characters; empty = ids stay as
            they come.
    """

    query_hash_key: str = secret()
    client_id_key: str = secret(private_file=True)

    def __post_init__(self) -> None:
        if self.client_id_key and len(self.client_id_key) < MIN_CLIENT_ID_KEY:
            raise ValueError(
                f"client_id_key: expected at least {MIN_CLIENT_ID_KEY} characters, got {len(self.client_id_key)}"
            )


def query_hash_key(settings: PrivacySettings, folder: Path, random_bytes: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return the key of the settings, else the key in `folder`, which the first of all processes makes.

    Raises:
        ConfigError: If the file of the key is empty: everybody could compute the hashes.
    """
    if settings.query_hash_key:
        return settings.query_hash_key.encode()
    path = folder / _FILE_NAME
    if not path.exists():
        create_file(path, random_bytes(KEY_BYTES), mode=PRIVATE_FILE)
    key = path.read_bytes()
    if not key:
        raise ConfigError(f"{path}: the file is empty; restore it, or remove it for a new key and new hashes")
    return key
