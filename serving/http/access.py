"""The check of who calls: each path asks for a role, and a bearer token has one or several.

A path that is not listed here is answered with 404 before the framework sees it: the framework also finds a route by
other spellings of its path, under which no check would know it. Without any token in the settings everybody may call;
the service is then on loopback.

Source: RFC 6750, sections 2.1 and 3 (Authorization and WWW-Authenticate); RFC 6585, section 4 (429).
"""

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from serving.http.openapi import (
    ANNOTATE,
    ANNOTATIONS,
    EVENTS,
    EXPERIMENT,
    EXPERIMENTS,
    LIVE,
    METRICS,
    OPENAPI,
    RANK,
    READY,
)
from serving.http.rate_limit import RateLimit
from serving.tokens import Role, Token, sha256_of

ROLES: Final = {
    RANK: Role.SCORE,
    EVENTS: Role.COLLECT,
    METRICS: Role.READ,
    OPENAPI: Role.READ,
    EXPERIMENTS: Role.READ,
    EXPERIMENT: Role.READ,
    ANNOTATIONS: Role.ANNOTATE,
}
"""Path to the role that it asks for."""
OPEN: Final = frozenset({LIVE, READY, ANNOTATE})
"""Paths for everybody: load balancers have no token, and neither has a browser that opens a page without data."""
_BEARER: Final = re.compile(rb"bearer +([A-Za-z0-9._~+/-]{1,256}=*)", re.IGNORECASE)
_CHALLENGE: Final = b"www-authenticate"


@dataclass(frozen=True, slots=True)
class Denial:
    """A refusal by status, sentence and headers."""

    status: int
    error: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


_NO_TOKEN: Final = Denial(401, "expected one Authorization header with a bearer token", ((_CHALLENGE, b"Bearer"),))
_BAD_TOKEN: Final = Denial(
    401, "the bearer token is unknown or has expired", ((_CHALLENGE, b'Bearer error="invalid_token"'),)
)
_NO_PATH: Final = Denial(404, "no such path")


class Access:
    """The tokens of a service, and the rate of each."""

    def __init__(self, tokens: Callable[[], Sequence[Token]], limit: RateLimit, now_ms: Callable[[], int]) -> None:
        """Prepare the check.

        Args:
            tokens: Returns the tokens that the service knows; none lets everybody in.
            limit: Rate of the requests of one token.
            now_ms: Epoch milliseconds.
        """
        self._tokens = tokens
        self._limit = limit
        self._now_ms = now_ms

    def denial(self, path: str, authorization: Sequence[bytes]) -> Denial | None:
        """Return why a request is refused, None if it is not.

        Args:
            path: Path of the request.
            authorization: Values of all its `Authorization` headers.
        """
        if path in OPEN:
            return None
        role = ROLES.get(EXPERIMENT if path.startswith(f"{EXPERIMENTS}/") else path)
        if role is None:
            return _NO_PATH
        tokens = self._tokens()
        if not tokens:
            return None
        match = _BEARER.fullmatch(authorization[0].strip()) if len(authorization) == 1 else None
        if match is None:
            return _NO_TOKEN
        sha256 = sha256_of(match[1])
        # Every token is compared in full, so that the time of an answer tells nothing about the known ones.
        known = [token for token in tokens if hmac.compare_digest(token.sha256, sha256)]
        now_ms = self._now_ms()
        roles = {token.role for token in known if token.expires_ms is None or now_ms < token.expires_ms}
        if not roles:
            return _BAD_TOKEN
        if role not in roles:
            challenge = b'Bearer error="insufficient_scope", scope="%b"' % role.value.encode()
            return Denial(403, f"the bearer token has not the role {role.value}", ((_CHALLENGE, challenge),))
        wait_s = self._limit.take(sha256)
        if wait_s:
            return Denial(429, "the token's rate is used up", ((b"retry-after", str(wait_s).encode()),))
        return None
