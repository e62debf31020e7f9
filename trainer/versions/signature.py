"""Signatures of versions: HMAC-SHA256 over the bytes of a manifest, which names the SHA-256 of each file.

An address proves that a version is whole, not who wrote it: whoever may write to the folder and to the registry can
bring a version of their own. A signature proves that its writer has the key, and it is checked before the manifest is
parsed. A delta names its base by address, and both are signed.

Source: RFC 2104 (HMAC); docs/training.md, "Signatures".
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final, Self

from stream.errors import ArtifactError
from stream.setting_fields import secret

KEY_BYTES: Final = 32
_KEY: Final = re.compile(f"[0-9a-fA-F]{{{2 * KEY_BYTES}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningSettings:
    """Keys of the signatures of versions, the same for trainers and servers.

    Attributes:
        key: Key that trainers sign versions with, as 64 hexadecimal digits. If it is set, unsigned versions are
            refused; empty = versions are neither signed nor checked.
        accepted_key: Further key whose signatures are accepted while one key replaces another; nothing is signed with
            it.
    """

    key: str = secret(private_file=True)
    accepted_key: str = secret(private_file=True)

    def __post_init__(self) -> None:
        for name in ("key", "accepted_key"):
            value = getattr(self, name)
            if value and not _KEY.fullmatch(value):
                raise ValueError(f"{name}: expected {2 * KEY_BYTES} hexadecimal digits, not this text of {len(value)}")
        if self.accepted_key and not self.key:
            raise ValueError("accepted_key is set and key is not: a change of keys needs both")


@dataclass(frozen=True, slots=True)
class VersionKeys:
    """Keys of one process, the one that signs first; without keys nothing is signed or checked."""

    keys: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, settings: SigningSettings) -> Self:
        """Return the keys of the settings."""
        return cls(tuple(bytes.fromhex(key) for key in (settings.key, settings.accepted_key) if key))

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __repr__(self) -> str:
        return f"VersionKeys({len(self.keys)} keys)"

    @property
    def signing(self) -> "VersionKeys":
        """Return the key that signs, alone."""
        return VersionKeys(self.keys[:1])

    def sign(self, manifest: bytes) -> bytes | None:
        """Return the signature of a manifest as 64 hexadecimal digits; None without keys."""
        return _signature(self.keys[0], manifest) if self.keys else None

    def check(self, address: str, manifest: bytes, signature: bytes | None) -> None:
        """Compare a signature with those of all keys.

        Args:
            address: Address of the version, for the message.
            manifest: Bytes of its manifest.
            signature: Content of its signature file; None if it has none.

        Raises:
            ArtifactError: If there are keys, and the signature is missing or of none of them.
        """
        if not self.keys:
            return
        if signature is None:
            raise ArtifactError(f"{address}: it is not signed, and signing.key asks for a signature")
        # All keys are compared, so that the time does not tell which one fits.
        fits = [hmac.compare_digest(_signature(key, manifest), signature) for key in self.keys]
        if not any(fits):
            raise ArtifactError(f"{address}: its signature is of another key or of another manifest")


NO_KEYS: Final = VersionKeys()


def _signature(key: bytes, manifest: bytes) -> bytes:
    return hmac.new(key, manifest, hashlib.sha256).hexdigest().encode()
