"""The socket on which the service listens, alone or together with other processes.

Source: socket(7), SO_REUSEPORT: the kernel gives each new connection to one of the sockets that listen on a port.
"""

import socket

from stream.errors import ConfigError


def listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Return a bound TCP socket whose connections answer without Nagle's delay.

    Args:
        host: Address.
        port: Port; 0 takes a free one.
        is_shared: Whether further sockets of this user may listen there; each must say so.

    Raises:
        ConfigError: If the address is unknown or taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio switches Nagle off only for sockets with an explicit protocol; an answer would wait 40 ms for an ACK.
        bound = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigError(f"serving.host = {host}, serving.port = {port}: {error.strerror or error}") from error
    return bound


def reserve(host: str, port: int) -> socket.socket:
    """Return a shared socket that accepts no connection, and keeps the port for the workers of one supervisor.

    Raises:
        ConfigError: If the address is unknown or taken, by shared sockets too.
    """
    # A socket that is not shared finds no place beside those of another service.
    with listen(host, port) as alone:
        taken: int = alone.getsockname()[1]
    return listen(host, taken, is_shared=True)
