"""Sockets of kafka-python that close themselves.

kafka-python 3.0 drops sockets of failed, abandoned and reset connections without closing them. The garbage collector
then finds a socket at any later time, and the ResourceWarning fails the test that happens to run.

Source: https://docs.python.org/3/library/socket.html#socket.socket.close
"""

import socket

from kafka.net.inet import KafkaNetSocket


class _SelfClosingSocket(socket.socket):
    """A socket that the garbage collector closes without a warning."""

    def __del__(self) -> None:
        self.close()


def _socket(
    _: KafkaNetSocket, family: int = socket.AF_UNSPEC, sock_type: int = socket.SOCK_STREAM, proto: int = 0
) -> socket.socket:
    return _SelfClosingSocket(family, sock_type, proto)


def close_dropped_sockets() -> None:
    """Let kafka-python open only sockets that close themselves."""
    KafkaNetSocket.socket = _socket
