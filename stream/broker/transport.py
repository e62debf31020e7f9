"""Corrections of kafka-python's transports, without which the reason of a refusal is lost.

A broker answers a wrong password and closes the connection at once. The transports of kafka-python 3.0.12 drop what
they have read when the end of the connection follows it, and leave the socket open when a TLS handshake fails.
"""

from kafka.net import manager
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport


class _CompleteReads:
    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        data, error = super()._sock_recv()  # type: ignore[misc]
        # The next read finds the end of the connection again.
        return (data, None) if data else (data, error)


class _PlainTransport(_CompleteReads, KafkaTCPTransport):  # type: ignore[misc]  # kafka-python has no types
    pass


class _TlsTransport(_CompleteReads, KafkaSSLTransport):  # type: ignore[misc]
    async def handshake(self) -> None:
        try:
            await super().handshake()
        except BaseException:
            self._sock.close()
            raise


def install() -> None:
    """Make kafka-python's clients use these transports; a second call changes nothing."""
    manager.KafkaTCPTransport = _PlainTransport
    manager.KafkaSSLTransport = _TlsTransport
