"""Liveness, readiness and metrics of a process over HTTP, for Kubernetes, Compose and Prometheus.

Every long-running process without a web application of its own starts one `ProbeServer`. The answers are the same in
all of them: `/livez` 200 while the process runs, `/readyz` 200 or 503 with the reason, `/metrics` in Prometheus' text
format, and 404 for every other path, so that a mistyped probe fails.

Source: docs/operations.md; Kubernetes, "Configure Liveness, Readiness and Startup Probes".
"""

import logging
import socket
import socketserver
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from stream.errors import ConfigError

_SOCKET_TIMEOUT_S = 5.0
_POLL_S = 0.1
_TEXT = "text/plain; charset=utf-8"

logger = logging.getLogger("shelfwise.probes")


class ProbeServer:
    """HTTP server of one process for probes and metrics; it answers from threads of its own.

    Guarantees: a client that sends or reads nothing for five seconds is disconnected; a request leaves no log line; a
    failing readiness check or metric answers 503 or 500 and does not stop the process.

    Example:
        >>> from prometheus_client import CollectorRegistry
        >>> with ProbeServer("127.0.0.1", 0, CollectorRegistry(), lambda: None) as server:
        ...     server.port > 0
        True
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        is_ready: Callable[[], str | None],
        *,
        section: str = "worker",
    ) -> None:
        """Prepare the server without opening its port.

        Args:
            host: Address to listen on: "127.0.0.1" for this machine only, "0.0.0.0" or "::" for all interfaces.
            port: TCP port; 0 lets the system choose a free one.
            registry: Metrics that `/metrics` shows.
            is_ready: Return None if the process can do its work, else the reason why it cannot. It runs in a thread of
                the server for every `/readyz` request, so it must be thread-safe and must not wait.
            section: Section of the settings `metrics_host` and `metrics_port`, for messages.
        """
        self._host, self._port, self._section = host, port, section
        self._handler = _handler(registry, is_ready)
        self._server: _Server | None = None
        self._thread: Thread | None = None

    @property
    def port(self) -> int:
        """Return the bound port while the server runs, else the configured one."""
        return self._port if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Open the port and answer requests until `close`.

        Raises:
            ConfigError: If the address cannot be bound, for example because another process uses the port.
        """
        assert self._server is None, "the probe server runs already"
        try:
            self._server = _Server(self._host, self._port, self._handler)
        except (OSError, OverflowError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise ConfigError(
                f"{self._section}.metrics_host = {self._host}, {self._section}.metrics_port = {self._port}: "
                f"{reason}; set {self._section}.metrics_port to a free port, or to 0 for no probes"
            ) from error
        self._thread = Thread(target=self._server.serve_forever, args=(_POLL_S,), name="probes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port; a second call does nothing."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            server.server_close()
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Bind the address; the inherited method also looks up the host's name, which can wait for DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Log an unexpected error; a connection that the other side broke is none."""
        error = sys.exception()
        if not isinstance(error, OSError):
            logger.error("a probe request failed", exc_info=error)


def _handler(registry: CollectorRegistry, is_ready: Callable[[], str | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SOCKET_TIMEOUT_S
        server_version = "shelfwise"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status, content_type, body = self._answer(path)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing: probes and scrapes come every few seconds."""

        def _answer(self, path: str) -> tuple[int, str, bytes]:
            if path == "/livez":
                return 200, _TEXT, b"alive\n"
            if path == "/readyz":
                reason = _reason(is_ready)
                return (200, _TEXT, b"ready\n") if reason is None else (503, _TEXT, f"{reason}\n".encode())
            if path == "/metrics":
                return _exposition(registry, self.headers.get("Accept", ""))
            return 404, _TEXT, b"not found: this server answers /livez, /readyz and /metrics\n"

    return Handler


def _reason(is_ready: Callable[[], str | None]) -> str | None:
    try:
        return is_ready()
    except Exception as error:  # one request: a broken check must read as "not ready"
        logger.exception("the readiness check failed")
        return f"the readiness check failed: {error!r}"


def _exposition(registry: CollectorRegistry, accept: str) -> tuple[int, str, bytes]:
    encoder, content_type = choose_encoder(accept)
    try:
        return 200, content_type, encoder(registry)
    except Exception as error:  # one request: a broken collector must not look like an empty process
        logger.exception("the metrics could not be collected")
        return 500, _TEXT, f"the metrics could not be collected: {error!r}\n".encode()
