"""Ports that a process can listen on."""

import socket

_LOOPBACK = "127.0.0.1"


def refusal(host: str, port: int) -> str | None:
    """Return why no process can listen on an address, or None if one can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # A process that starts takes a port whose last connections are still closing.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def is_free(port: int) -> bool:
    """Return whether a process can listen on a port of loopback."""
    return refusal(_LOOPBACK, port) is None


def free_ports() -> tuple[int, int]:
    """Return two different free ports of loopback."""
    with socket.socket() as first, socket.socket() as second:
        first.bind((_LOOPBACK, 0))
        second.bind((_LOOPBACK, 0))
        return first.getsockname()[1], second.getsockname()[1]
