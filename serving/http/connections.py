"""The table of open connections: which one waits too long, and which one makes room for another.

Deadlines are absolute: a byte now and then extends none of them, so a client cannot hold a connection by sending
slowly. At the limit of connections, the one that has waited longest for a request is closed for the new one, so that
silent clients do not keep others out.

Source: nginx, `client_header_timeout`, `send_timeout` and `ngx_drain_connections` (idle connections are closed when
none are free); RFC 9110, section 15.5.9 (408 Request Timeout).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

Key = TypeVar("Key")

OWN_FILES: Final = 256
"""File descriptors that connections leave for files, the broker, the database and connections about to be closed."""


class Phase(Enum):
    """Step for which a connection waits; the values are reasons of the metric of closed connections."""

    HEADERS = "headers"
    BODY = "body"
    ANSWER = "answer"
    UNREAD = "unread"
    IDLE = "idle"


# A client that has sent no request, or not all of it, loses least; one with an answer under way is never closed.
_MAKES_ROOM: Final = (Phase.HEADERS, Phase.BODY, Phase.UNREAD, Phase.IDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of the connections of one process.

    Attributes:
        num: Open connections.
        seconds: Seconds that a connection may stay in a phase; phases that are not listed have no limit.
    """

    num: int
    seconds: dict[Phase, float]


def limit_of(wanted: int, descriptors: int) -> int:
    """Return the number of connections that fits into the descriptor limit of the process.

    >>> limit_of(1_000, 20_000), limit_of(1_000, 1_024), limit_of(1_000, 300)
    (1000, 768, 150)
    """
    return min(wanted, descriptors - min(OWN_FILES, descriptors // 2))


class Connections(Generic[Key]):
    """The open connections by phase, in the order in which they entered it."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._phases: dict[Key, Phase] = {}
        # Insertion order is the order of time, because a phase is entered once and every reading is later.
        self._since: dict[Phase, dict[Key, float]] = {phase: {} for phase in Phase}

    def __len__(self) -> int:
        return len(self._phases)

    def opened(self, key: Key, now_s: float) -> Key | None:
        """Add a connection that waits for headers, and return the one to close for it: None if there is room.

        The connection itself is returned if every other one has an answer under way.
        """
        victim = next(self._in_the_way(), key) if len(self) >= self._limits.num else None
        if victim is not None:
            self.closed(victim)
        if victim != key:
            self._enter(key, Phase.HEADERS, now_s)
        return victim

    def entered(self, key: Key, phase: Phase, now_s: float) -> None:
        """Move a connection to a phase; one that is not open, or in this phase already, stays as it is."""
        if self._phases.get(key, phase) is not phase:
            self.closed(key)
            self._enter(key, phase, now_s)

    def closed(self, key: Key) -> None:
        """Remove a connection, if it is there."""
        phase = self._phases.pop(key, None)
        if phase is not None:
            del self._since[phase][key]

    def expired(self, now_s: float) -> list[tuple[Key, Phase]]:
        """Return the connections to close, with the phase in which they have been for too long.

        Each is then in the phase `UNREAD`, so that one whose last bytes the client does not read is returned again.
        """
        found: list[tuple[Key, Phase]] = []
        for phase, limit_s in self._limits.seconds.items():
            for key, since_s in self._since[phase].items():
                if now_s - since_s <= limit_s:
                    break
                found.append((key, phase))
        for key, _ in found:
            self.closed(key)
            self._enter(key, Phase.UNREAD, now_s)
        return found

    def _enter(self, key: Key, phase: Phase, now_s: float) -> None:
        self._phases[key] = phase
        self._since[phase][key] = now_s

    def _in_the_way(self) -> Iterator[Key]:
        for phase in _MAKES_ROOM:
            yield from self._since[phase]
