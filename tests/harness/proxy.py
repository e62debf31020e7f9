"""A TCP proxy on loopback, between a program under test and a server, that slows, stalls or cuts connections.

It counts requested connections, including those that the server refuses.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

_PIECE_BYTES = 65_536
_CALL_S = 30.0
_Result = TypeVar("_Result")


class Proxy:
    """A forwarder of connections to one server, in its own thread.

    Args:
        port: Port of the server on loopback; it need not run yet.

    Attributes:
        delay_s: Delay of each piece of an answer; pieces of one connection wait one after another.
        opened_s: Time of each connection request, by the monotonic clock.
        num_answers: Pieces that the server has answered.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.opened_s: list[float] = []
        self.num_answers = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def through(self, url: str) -> str:
        """Return the server's URL with this proxy in place of the server."""
        return url.replace(f":{self._server_port}", f":{self.port}")

    def stall(self) -> None:
        """Hold back new data in both directions; connections stay open."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """Release the data that `stall` held back."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def cut(self) -> None:
        """End all connections."""
        self._call(self._cut())

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened_s.append(time.monotonic())
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            try:
                # A connection ends as a whole; no test needs one that is half open.
                asking = asyncio.ensure_future(self._pump(reader, server_writer, is_answer=False))
                answering = asyncio.ensure_future(self._pump(server_reader, writer, is_answer=True))
                try:
                    await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in (asking, answering):
                        pump.cancel()
                    await asyncio.gather(asking, answering, return_exceptions=True)
            finally:
                server_writer.close()
        except (OSError, asyncio.CancelledError):
            pass  # the server does not run, or the connection was cut
        finally:
            writer.close()
            self._connections.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            if is_answer:
                self.num_answers += 1
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
            await self._flowing.wait()
            writer.write(piece)
            await writer.drain()

    async def _cut(self) -> None:
        connections = set(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        await self._server.wait_closed()

    def _call(self, step: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(_CALL_S)
