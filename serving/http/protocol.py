"""uvicorn's HTTP protocol with deadlines, a limit of connections, and refusals that cost little.

A client that sends nothing, too little or too slowly is answered with 408, or closed without an answer if it has sent
nothing. Neither is logged: a line for each would let anyone fill the disk. The metrics count them.

A refused request is answered in the callback that has read its headers, in one write, without a task.

What a client sends at once is parsed in pieces, one in a turn of the event loop, and not while parsed requests wait: a
parsed request takes fifty times its bytes, and other connections wait for the end of the turn.

An offer to go on in another protocol, as of HTTP/2 over plain text, is passed over. The parser takes what follows the
headers of such a request for that other protocol, so it is given the request again, without the offer.

Source: `serving.http.connections`, `serving.http.edge`; RFC 9110, section 7.8 (a server may ignore Upgrade).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.http.connections import Connections, Phase
from serving.http.edge import ARRIVAL, EXTENSION, Edge, Refusal
from serving.metrics import Metrics

MAX_HEADER_BYTES: Final = 64 * 1024
"""Bytes of headers, and of all else that a request has between two pieces of the content of its body."""
_PIECE_BYTES: Final = 4 * 1024
_TIMEOUT, _HEADERS_TOO_LARGE = 408, 431
_CLOSE: Final = (b"connection", b"close")
_OFFERS: Final = frozenset({b"upgrade", b"http2-settings"})
_INVALID: Final = "Invalid HTTP request received."


class Closable(Protocol):
    """A connection that the guard can close."""

    def end(self, phase: Phase) -> None:
        """Close the connection, which was in `phase` for too long."""
        ...

    def abort(self) -> None:
        """Close the connection at once, without an answer."""
        ...


class Guard:
    """Keeper of the limits of all connections of a server."""

    def __init__(self, connections: Connections[Closable], metrics: Metrics, clock: Callable[[], float]) -> None:
        """Prepare the keeper.

        Args:
            connections: The table of connections, empty.
            metrics: Metrics of the process.
            clock: Monotonic seconds.
        """
        self.clock = clock
        self._connections = connections
        self._closed = metrics.closed_connections
        metrics.connections.set_function(lambda: len(connections))

    def opened(self, connection: Closable) -> None:
        """Take a new connection, or close one to stay below the limit."""
        victim = self._connections.opened(connection, self.clock())
        if victim is not None:
            self.count("full" if victim is connection else "room")
            victim.abort()

    def entered(self, connection: Closable, phase: Phase) -> None:
        """Move a connection to a phase."""
        self._connections.entered(connection, phase, self.clock())

    def closed(self, connection: Closable) -> None:
        """Forget a connection."""
        self._connections.closed(connection)

    def sweep(self) -> None:
        """Close the connections that are past a deadline."""
        for connection, phase in self._connections.expired(self.clock()):
            self.count(phase.value)
            connection.end(phase)

    def count(self, reason: str) -> None:
        """Count a connection that the service closes."""
        self._closed.labels(reason).inc()


class _Reading(FlowControl):
    """Flow control with a second reason to read no more: bytes that wait for their turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_held = False

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`."""
        if not self._is_held:
            super().pause_reading()
        self.read_paused = True

    def resume_reading(self) -> None:
        """Read again, unless it is held."""
        if not self._is_held:
            super().resume_reading()
        self.read_paused = False

    def hold(self, *, is_held: bool) -> None:
        """Read no more while `is_held`."""
        if is_held != self._is_held:
            self._is_held = is_held
            if not self.read_paused:
                (self._transport.pause_reading if is_held else self._transport.resume_reading)()


class GuardedProtocol(HttpToolsProtocol):
    """One connection under a guard."""

    def __init__(self, *, guard: Guard, edge: Edge, **others: Any) -> None:
        """Prepare a connection; `others` are uvicorn's own arguments."""
        super().__init__(**others)
        self._guard = guard
        self._edge = edge
        self._unparsed = memoryview(b"")
        self._has_turn = self._may_refuse = False
        self._num_content_bytes = 0
        self._is_first = False
        self._is_offer = False
        self._answering: RequestResponseCycle | None = None
        self._incoming: Phase | None = None
        self._num_answering = 0
        self._is_unread = False
        self._header_bytes = 0
        self._received_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection under the guard."""
        super().connection_made(transport)
        self.flow = self._reading = _Reading(transport)
        self._guard.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._guard.closed(self)
        # uvicorn tells it to the newest request alone, which may wait for this one.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes of requests; headers above `MAX_HEADER_BYTES` are refused."""
        self._received_s = self._guard.clock()
        self._unset_keepalive_if_required()
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        if not self._has_turn:
            self._take_turn()

    def on_message_begin(self) -> None:
        """Note the first byte of a request."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {ARRIVAL: self._received_s}}
        self._incoming = Phase.HEADERS
        self._moved()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers of a chunked body are not kept."""
        if self._incoming is Phase.HEADERS:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start to answer a request, whose body may follow."""
        self._is_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._is_offer:
            return
        if not self.url.startswith((b"/", b"*")):
            self._take_host_of_target()
        self._incoming = Phase.BODY
        self._num_answering += 1
        self._is_first = True
        super().on_headers_complete()
        self._is_first = False
        self._moved()

    def on_body(self, body: bytes) -> None:
        """Keep content of a body."""
        self._num_content_bytes += len(body)
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        if self._is_offer:
            return
        super().on_message_complete()
        self._incoming = None
        self._header_bytes = 0
        self._moved()

    def on_response_complete(self) -> None:
        """Note the end of an answer."""
        self._num_answering -= 1
        super().on_response_complete()
        self._plan_turn()
        self._moved()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no HTTP request."""
        self._guard.count("invalid")
        super().send_400_response(msg)
        self._moved()

    def pause_writing(self) -> None:
        """Note that the client does not read its answer."""
        super().pause_writing()
        self._is_unread = True
        self._moved()

    def resume_writing(self) -> None:
        """Note that the client reads on."""
        super().resume_writing()
        self._is_unread = False
        self._moved()

    def shutdown(self) -> None:
        """Close when the answer under way is complete; a request that is not complete gets none."""
        super().shutdown()
        if self._incoming is not None:
            self.transport.close()

    def end(self, phase: Phase) -> None:
        """Close the connection, which was in `phase` for too long."""
        is_begun = self._incoming is not None and phase in {Phase.HEADERS, Phase.BODY}
        if phase is Phase.UNREAD or self._is_answered_in(phase):
            self.abort()
        elif is_begun:
            self._answer(_TIMEOUT)
        else:
            self.transport.close()

    def abort(self) -> None:
        """Close the connection at once, without an answer."""
        self.transport.abort()

    def _take_turn(self) -> None:
        """Parse a piece of what was read, and content of a body that follows it in one stretch."""
        self._has_turn = self._may_refuse = is_content = True
        while self._unparsed and is_content and not self.transport.is_closing():
            piece, self._unparsed = self._unparsed[:_PIECE_BYTES], self._unparsed[_PIECE_BYTES:]
            self._header_bytes += len(piece)
            self._num_content_bytes = 0
            try:
                self._parse(piece)
            except httptools.HttpParserError:
                self.send_400_response(_INVALID)
            is_content = self._num_content_bytes == len(piece)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self._refuse_headers()
        if self._incoming is Phase.BODY and not self._unparsed:
            # The body did not come with the headers, and may never come.
            self._edge.expect_no_more(self.scope)
        self._has_turn = False
        self._plan_turn()

    def _plan_turn(self) -> None:
        """Read no more while bytes wait, and parse them in the next turn unless requests wait for their answers."""
        if self.transport.is_closing():
            self._unparsed = memoryview(b"")
            return
        self._reading.hold(is_held=bool(self._unparsed))
        if self._unparsed and not self.pipeline and not self._has_turn:
            self._has_turn = True
            self.loop.call_soon(self._take_turn)

    def _refuse_headers(self) -> None:
        self._guard.count("large")
        if self._incoming is Phase.BODY and self._is_answered_in(Phase.BODY):
            self.abort()
        else:
            self._answer(_HEADERS_TOO_LARGE)

    def _is_answered_in(self, phase: Phase) -> bool:
        return phase is Phase.BODY and bool(self.cycle.response_started)

    def _parse(self, data: bytes | memoryview) -> None:
        while data:
            rest = self._parse_to_offer(data)
            if not self._is_offer:
                return
            self._is_offer = False
            data = self._head_without_offer() + rest
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _parse_to_offer(self, data: bytes | memoryview) -> bytes | memoryview:
        """Parse up to the end of a request with an offer, and return what follows it."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stop:
            return data[stop.args[0] :]
        return b""

    def _head_without_offer(self) -> bytes:
        """Return the request line and the headers of the request that was read, without those of an offer."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            kept = value
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(token for token in tokens if token.lower() not in _OFFERS)
            if name not in _OFFERS and (kept or name != b"connection"):
                lines.append(b"%b: %b" % (name, kept))
        return b"\r\n".join([*lines, b"", b""])

    def _take_host_of_target(self) -> None:
        """Replace the host by that of the target, which counts where it has one (RFC 9112, section 3.2.2)."""
        host = self.url.partition(b"://")[2].partition(b"/")[0]
        self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        # A request that waited for another on its connection starts when that is answered, and so on: refusals would
        # nest as deep as there are requests. One refusal in a turn: others' connections wait for the end of the turn.
        if self._may_refuse and self._is_first and not self._is_unread and cycle.scope["method"] == "POST":
            refusal = self._edge.refusal(cycle.scope)
            if refusal is not None:
                self._may_refuse = False
                self._refuse(cycle, refusal)
                return
        super()._start_asgi_task(cycle, app)

    def _refuse(self, cycle: RequestResponseCycle, refusal: Refusal) -> None:
        headers = [*self.server_state.default_headers, *refusal.headers]
        if not cycle.keep_alive and _CLOSE not in headers:
            headers.append(_CLOSE)
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", refusal.body]))
        cycle.response_started = cycle.response_complete = True
        if _CLOSE in headers:
            self.transport.close()
        self.on_response_complete()

    def _answer(self, status: int) -> None:
        self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    def _moved(self) -> None:
        if self._is_unread or self.transport.is_closing():
            phase = Phase.UNREAD
        elif self._incoming is not None:
            phase = self._incoming
        else:
            phase = Phase.ANSWER if self._num_answering > 0 else Phase.IDLE
        self._guard.entered(self, phase)
