"""Reservation of ports, so that two demos that start at the same time choose different ones.

A process binds its port many seconds after the port was chosen. Until then a second demo would choose the same port,
and its shoppers would search in the first one's service. A reservation is a name in Linux's abstract socket namespace:
it has the scope of the ports and ends with its process. Other systems reserve nothing.
"""

import socket
import sys

from deploy.free_ports import free_ports, is_free


class PortReservation:
    """Reserved ports of one demo, held until `release` or the end of the process."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def reserve(self, port: int) -> bool:
        """Reserve a port that nothing listens on; return whether that was possible."""
        if not is_free(port):
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

    def reserve_any(self) -> int:
        """Reserve a free port and return it."""
        while True:
            port, _ = free_ports()
            if self.reserve(port):
                return port

    def release(self) -> None:
        """Release all ports."""
        for name in self._held:
            name.close()
        self._held.clear()
