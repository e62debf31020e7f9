"""Load on a ranking service over kept connections: open loop with Poisson arrivals, or closed loop.

In the open loop, a request is due at a time that no answer delays, and its latency counts from that time: a service
that falls behind is not asked less often, and the time that requests wait for their turn counts.

Source: Schroeder, Wierman and Harchol-Balter, "Open versus closed: a cautionary tale" (NSDI 2006); Tene, "How not to
measure latency" (coordinated omission).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answered request.

    Attributes:
        status: HTTP status; 0 if the connection was lost.
        fallback: Reason for the incoming order; empty for a scored answer.
        latency_s: Seconds from the time at which the request was due.
        late_s: Seconds by which the generator itself sent it too late.
    """

    status: int
    fallback: str
    latency_s: float
    late_s: float


class _Connection(asyncio.Protocol):
    """One kept connection with at most one request under way."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(_HEAD_END)
        if not found:
            return
        lowered = head.lower()
        length = int(lowered.partition(_LENGTH)[2].partition(b"\r\n")[0]) if _LENGTH in lowered else 0
        if len(body) >= length:
            self._received = b""
            self._finish(int(head[9:12]), body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._finish(0, b"")

    def ask(self, sent: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a request; the future has its status and body."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None:
            self._finish(0, b"")
        else:
            self._transport.write(sent)
        return self._answer

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _finish(self, status: int, body: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))


@dataclass(slots=True)
class Pool:
    """Kept connections to one address, opened when all others are under way."""

    host: str
    port: int
    most: int = 400
    num_open: int = 0
    free: deque[_Connection] = field(default_factory=deque)

    async def take(self) -> _Connection | None:
        """Return a free connection, or None if there are too many."""
        while self.free:
            found = self.free.pop()
            if found.is_open:
                return found
            self.num_open -= 1
        if self.num_open >= self.most:
            return None
        self.num_open += 1
        _, made = await asyncio.get_running_loop().create_connection(_Connection, self.host, self.port)
        return made

    def close(self) -> None:
        """Close the free connections."""
        for each in self.free:
            each.close()


def request(body: bytes) -> bytes:
    """Return the bytes of one rank request."""
    head = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return head + str(len(body)).encode() + _HEAD_END + body


def fallback_of(body: bytes) -> str:
    """Return the reason for the incoming order in an answer; empty for none.

    >>> fallback_of(b'{"fallback":"late","bucket":1}'), fallback_of(b'{"fallback":null}')
    ('late', '')
    """
    return body.partition(b'"fallback":"')[2].partition(b'"')[0].decode()


async def open_loop(
    pool: Pool, requests: Sequence[bytes], *, rate: float, seconds: float, rng: np.random.Generator
) -> tuple[list[Outcome], int]:
    """Send requests at Poisson times; return the outcomes, and the number that found no free connection.

    Args:
        pool: Connections to the service.
        requests: Bytes of the requests, sent in turn.
        rate: Requests per second.
        seconds: Length of the run.
        rng: Source of the times.
    """
    loop = asyncio.get_running_loop()
    due = np.cumsum(rng.exponential(1 / rate, size=int(rate * seconds)))
    outcomes: list[Outcome] = []
    lost = 0

    async def send(number: int, due_s: float) -> None:
        nonlocal lost
        late_s = loop.time() - due_s
        connection = await pool.take()
        if connection is None:
            lost += 1
            return
        status, body = await connection.ask(requests[number % len(requests)])
        outcomes.append(Outcome(status, fallback_of(body), loop.time() - due_s, late_s))
        pool.free.append(connection)

    start_s = loop.time()
    tasks = set()
    for number, offset_s in enumerate(due):
        wait_s = start_s + offset_s - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        task = loop.create_task(send(number, start_s + offset_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.wait(tasks, timeout=10.0) if tasks else None
    return outcomes, lost + len(tasks)


async def closed_loop(pool: Pool, requests: Sequence[bytes], *, clients: int, seconds: float) -> float:
    """Return the scored answers per second to clients that each send the next request after the answer.

    A client pauses after an answer that is not scored: at once, it would take time from the lists that can be scored.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    scored = 0

    async def client(first: int) -> None:
        nonlocal scored
        connection = await pool.take()
        assert connection is not None
        number = first
        while loop.time() < end_s:
            status, body = await connection.ask(requests[number % len(requests)])
            number += clients
            if status == 200 and not fallback_of(body):
                scored += 1
            else:
                await asyncio.sleep(_PAUSE_S)
        pool.free.append(connection)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return scored / seconds
