"""The HTTP server of the process: its socket, and a shutdown that load balancers can follow.

After the first SIGTERM or SIGINT the server drains: `/readyz` answers 503 at once, every request is still answered,
and each answer closes its connection. Load balancers stop sending requests once they have seen the failed probe.
`serving.drain_s` seconds later, or at a second signal, the server closes and delivers its outbox.

Source: docs/operations.md; Kubernetes, "Pod Lifecycle", termination of pods.
"""

import asyncio
import logging
import math
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Final, cast

import uvicorn

from serving.http.app import create
from serving.http.connections import ConnectionLimits, Connections, Phase, limit_of
from serving.http.edge import Edge
from serving.http.listening import listen
from serving.http.protocol import Guard, GuardedProtocol
from serving.ranking.service import Service
from serving.settings import ServingSettings

# Requests in flight when the server closes get this long; their deadline is far shorter.
_GRACE_S: Final = 2
# Connections that are accepted in one turn of the event loop, before any is closed for them.
_BACKLOG: Final = 128

_log = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """HTTP server that keeps answering for a while after the first signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        guard: Guard,
        drain_s: float,
        on_drain: Callable[[], None],
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        """Prepare the server.

        Args:
            config: uvicorn's configuration.
            guard: Keeper of the limits of connections.
            drain_s: Seconds between the first signal and the close.
            on_drain: Called in the event loop when the drain begins.
            call_later: Timer of the drain; the event loop's if it is None.
        """
        super().__init__(config)
        self._guard = guard
        self._drain_s = drain_s
        self._on_drain = on_drain
        self._call_later = call_later
        self._is_draining = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept connections."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Close connections that are past a deadline; called ten times a second."""
        self._guard.sweep()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the drain at the first signal, close at the second; a server that has not started closes at once."""
        if self._is_draining or self._loop is None or not self.started:
            super().handle_exit(sig, frame)
            return
        self._is_draining = True
        # A signal handler interrupts any line of the loop's thread, so the work waits for the loop's next turn.
        self._loop.call_soon_threadsafe(self._drain, self._loop)

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        self._on_drain()
        _log.info("not ready any more; closing in %.1f s", self._drain_s)
        (self._call_later or loop.call_later)(self._drain_s, self._close)

    def _close(self) -> None:
        self.should_exit = True


def server_of(
    service: Service, *, call_later: Callable[[float, Callable[[], None]], object] | None = None
) -> DrainingServer:
    """Return the server of a service, not started.

    Args:
        service: The service.
        call_later: Timer of the drain; the event loop's if it is None.
    """
    settings = service.settings
    guard = Guard(Connections(_limits(settings)), service.metrics, service.clock)
    edge = Edge(create(service), service)
    config = uvicorn.Config(
        edge,
        # uvicorn calls this with arguments by name, as it calls a class.
        http=cast("type[asyncio.Protocol]", partial(GuardedProtocol, guard=guard, edge=edge)),
        loop="uvloop",
        # Callers are known by their tokens; addresses that a proxy states are not read.
        proxy_headers=False,
        ws="none",
        access_log=False,
        log_config=None,
        lifespan="on",
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE_S,
        # The guard closes idle connections a little earlier; bytes that are no request do not set it back.
        timeout_keep_alive=math.ceil(settings.keep_alive_s) + 1,
    )
    return DrainingServer(config, guard=guard, drain_s=settings.drain_s, on_drain=service.drain, call_later=call_later)


def serve(service: Service) -> None:
    """Answer requests until SIGTERM or SIGINT; return after the drain, with the outbox delivered or spooled.

    Raises:
        ConfigError: If the address is unknown or taken.
    """
    settings = service.settings
    server = server_of(service)
    with ExitStack() as opened:
        listening = [opened.enter_context(listen(settings.host, settings.port, is_shared=service.worker > 0))]
        if service.worker and settings.workers_port:
            listening.append(opened.enter_context(listen(settings.host, settings.workers_port + service.worker - 1)))
        service.listens_on(listening[0].getsockname()[1])
        _log.info("listening on port %s", ", ".join(str(each.getsockname()[1]) for each in listening))
        # uvicorn raises a second signal again after its clean stop; the process then still ends with code 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        server.run(sockets=listening)


def _limits(settings: ServingSettings) -> ConnectionLimits:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    num = limit_of(settings.max_connections, descriptors)
    if num < settings.max_connections:
        _log.warning(
            "%d connections at most, not serving.max_connections = %d: the process may open %d files (ulimit -n)",
            num,
            settings.max_connections,
            descriptors,
        )
    seconds = {
        Phase.HEADERS: settings.headers_timeout_s,
        Phase.BODY: settings.body_timeout_s,
        Phase.UNREAD: settings.write_timeout_s,
        Phase.IDLE: settings.keep_alive_s,
    }
    return ConnectionLimits(num=num, seconds=seconds)
