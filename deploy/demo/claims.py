"""Ports that one demo has claimed, so that another which starts meanwhile takes others.

A process binds its port many seconds after the port was chosen, and a free port would be chosen twice until then: one
demo's shoppers would search in the other's service. A claim is a name in Linux's abstract socket namespace, which has
the scope of the ports themselves and ends with its process; elsewhere nothing is claimed.
"""

import socket
import sys


class PortClaims:
    """The ports of one demo; they are held until `release`, or the end of the process."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def claim(self, port: int) -> bool:
        """Claim a port that nothing listens on; return whether that was possible."""
        if not _is_free(port):
            return False
        if sys.platform != "linux":
            return True
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0shelfwise-demo-port-{port}")
        except OSError:
            name.close()
            return False
        self._held.append(name)
        return True

    def claim_any(self) -> int:
        """Claim a free port and return it."""
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if self.claim(port):
                return port

    def release(self) -> None:
        """Give all ports back."""
        for name in self._held:
            name.close()
        self._held.clear()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
