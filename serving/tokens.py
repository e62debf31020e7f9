"""Bearer tokens of callers: what each may do, and the lines by which the service knows them.

The service knows the SHA-256 of a token, never the token. A token has 256 random bits, so a plain hash is enough:
no one finds it by trying.

Source: RFC 6750 (bearer tokens); docs/serving.md, "Tokens".
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import Enum
from typing import Final

MAX_PER_ROLE: Final = 2
"""Tokens of one role, so that one can replace another while both are valid."""
NUM_BYTES: Final = 32
_LINE: Final = re.compile(r"([a-z]+):([0-9a-f]{64})(?::([0-9]{4}-[0-9]{2}-[0-9]{2}))?")
_SEPARATORS: Final = re.compile(r"[\s,]+")


class Role(Enum):
    """Permission that a token carries."""

    SCORE = "score"
    COLLECT = "collect"
    READ = "read"
    ANNOTATE = "annotate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One line: a role, the SHA-256 of a token, and the end of its validity.

    Attributes:
        role: What the token allows.
        sha256: SHA-256 of the token, 32 bytes.
        expires_ms: Epoch milliseconds from which on it is refused; None = never.
    """

    role: Role
    sha256: bytes
    expires_ms: int | None = None

    def __str__(self) -> str:
        end = "" if self.expires_ms is None else f":{datetime.fromtimestamp(self.expires_ms / 1000, UTC):%Y-%m-%d}"
        return f"{self.role.value}:{self.sha256.hex()}{end}"


def parse(text: str) -> tuple[Token, ...]:
    """Return the tokens of lines `ROLE:SHA256` or `ROLE:SHA256:YYYY-MM-DD`, the first day (UTC) without it.

    Raises:
        ValueError: If a line has another form, or a role has more than two. The message names the line's number, and no
            part of its content.
    """
    found = [_token(number, line) for number, line in enumerate(filter(None, _SEPARATORS.split(text)), 1)]
    for role, count in Counter(token.role for token in found).items():
        if count > MAX_PER_ROLE:
            raise ValueError(f"tokens: {count} of the role {role.value}, expected at most {MAX_PER_ROLE}")
    return tuple(found)


def make(role: Role, random_bytes: Callable[[int], bytes], expires: date | None = None) -> tuple[str, Token]:
    """Return a new token and the line by which the service knows it.

    Args:
        role: What the token allows.
        random_bytes: Returns that many random bytes.
        expires: First day (UTC) on which it is refused; None = never.
    """
    # A name in front, so that a scanner for secrets knows what it has found.
    drawn = base64.urlsafe_b64encode(random_bytes(NUM_BYTES)).decode().rstrip("=")
    text = f"shelfwise-{role.value}-{drawn}"
    return text, Token(
        role=role, sha256=sha256_of(text.encode()), expires_ms=None if expires is None else _ms_of(expires)
    )


def sha256_of(token: bytes) -> bytes:
    """Return the SHA-256 of a token."""
    return hashlib.sha256(token).digest()


def _token(number: int, line: str) -> Token:
    match = _LINE.fullmatch(line)
    roles = {role.value: role for role in Role}
    if match is None or match[1] not in roles:
        raise ValueError(
            f"tokens: entry {number}: expected ROLE:SHA256 or ROLE:SHA256:YYYY-MM-DD with one of the roles"
            f" {', '.join(roles)} and 64 lower-case hexadecimal digits"
        )
    try:
        expires_ms = None if match[3] is None else _ms_of(date.fromisoformat(match[3]))
    except ValueError as error:
        raise ValueError(f"tokens: entry {number}: {match[3]} is no day") from error
    return Token(role=roles[match[1]], sha256=bytes.fromhex(match[2]), expires_ms=expires_ms)


def _ms_of(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000
