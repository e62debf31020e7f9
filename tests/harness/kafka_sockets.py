"""Closed sockets for the connections that kafka-python could not establish.

kafka-python 3.0 drops the socket of a failed or abandoned connection without closing the socket. The garbage collector
then closes the socket at any later time, and its ResourceWarning fails the test that happens to run.

Source: https://docs.python.org/3/library/socket.html#socket.socket.close
"""

import functools
from collections.abc import Awaitable, Callable
from socket import socket

from kafka.net.inet import KafkaNetSocket


def close_failed_sockets() -> None:
    """Let each connection attempt of kafka-python close its socket when the attempt fails or is abandoned."""
    connect: Callable[..., Awaitable[object]] = KafkaNetSocket.sock_connect

    @functools.wraps(connect)
    async def connect_or_close(
        self: KafkaNetSocket, net: object, sock: socket, *args: object, **kwargs: object
    ) -> object:
        try:
            return await connect(self, net, sock, *args, **kwargs)
        except BaseException:
            sock.close()
            raise

    KafkaNetSocket.sock_connect = connect_or_close
