"""The heartbeat of a worker: every second it writes ticks, measures the lag, checks the log and feeds the watchdog.

Knows no Faust; the clock and the pause between two heartbeats are arguments.

Source: docs/stream.md.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from stream.agents.assignment import Assignment, Fetched, Input
from stream.agents.commit_barrier import Send
from stream.agents.log_check import LostRecordsError
from stream.agents.metrics import JoinMetrics
from stream.agents.watchdog import Watchdog
from stream.errors import BusError
from stream.schemas import topics
from stream.schemas.events import encode

PERIOD_S = 1.0

log = logging.getLogger("shelfwise.stream")


class Transport(Protocol):
    """The part of the Faust app that the heartbeat reads."""

    @property
    def crashed(self) -> bool:
        """State of Faust: True after a crash."""

    @property
    def num_recovered(self) -> int:
        """Number of changelog records that were replayed since the start."""

    async def end_offsets(self, partitions: Sequence[int]) -> Mapping[Input, int]:
        """Return the last stable offset of each input topic in `partitions`."""

    async def high_watermarks(self, partitions: Sequence[int]) -> Mapping[Input, int]:
        """Return the end of the log of each input topic in `partitions`, open transactions included."""

    def fetched(self) -> Mapping[Input, Fetched]:
        """Return the progress of the consumer in each owned input partition."""


class Heartbeats(Protocol):
    """The part of the fence that the heartbeat reads."""

    @property
    def num_failures(self) -> int:
        """Number of heartbeats that the broker has not answered."""


class Heartbeat:
    """One task of the worker that runs every second, and stops the worker through `on_failure`.

    Attributes:
        assignment: The open assignment, or None while there is none.
    """

    def __init__(
        self,
        transport: Transport,
        fence: Heartbeats,
        send: Send,
        *,
        metrics: JoinMetrics,
        on_failure: Callable[[BaseException], None],
        hot_max_bytes: int,
        ticks_by: str | None,
        watchdog_s: float,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Prepare the heartbeat.

        Args:
            transport: See `Transport`.
            fence: See `Heartbeats`.
            send: Write rows to a topic and partition.
            metrics: Metrics of the process.
            on_failure: Called with an error that must stop the worker.
            hot_max_bytes: Size of the hot tier of one partition above which inputs are paused.
            ticks_by: Name of this worker in the ticks that it writes, or None if it writes none.
            watchdog_s: Longest standstill.
            timeout_s: Longest duration of one heartbeat.
            clock: Monotonic seconds.
            sleep: Wait for so many seconds.
        """
        self.assignment: Assignment | None = None
        self._transport = transport
        self._fence = fence
        self._send = send
        self._metrics = metrics
        self._on_failure = on_failure
        self._hot_max_bytes = hot_max_bytes
        self._ticks_by = ticks_by
        self._watchdog = Watchdog(watchdog_s)
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
        self._tick_seq = 0

    def begin(self, assignment: Assignment) -> None:
        """Watch an assignment that has just been opened.

        The watchdog starts anew: a heartbeat may have watched the recovery while the log was checked.
        """
        self._watchdog.reset()
        self._watchdog.record_answer(self._clock())
        self.assignment = assignment

    def end(self) -> None:
        """Watch the recovery of the next assignment; the next owners report the lag of these partitions."""
        self.assignment = None
        self._watchdog.reset()
        self._metrics.clear_partitions()

    async def run(self) -> None:
        """Run one heartbeat a second until cancelled."""
        due_s = self._clock()
        self._watchdog.record_answer(due_s)
        while True:
            due_s = max(due_s + PERIOD_S, self._clock())
            await self._sleep(due_s - self._clock())
            await self.beat()

    async def beat(self) -> None:
        """Run one heartbeat: talk to the broker if it answers, then look for a standstill."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._talk()
            self._watchdog.record_answer(self._clock())
        except Exception as error:  # noqa: BLE001 - the next heartbeat tries again; the watchdog sees a standstill
            log.warning("heartbeat: %r", error)
        if self._transport.crashed:
            self._on_failure(BusError("Faust has crashed"))
        self._observe(self._clock())
        standstill = self._watchdog.check(self._clock())
        if standstill:
            self._on_failure(BusError(standstill))

    async def _talk(self) -> None:
        assignment = self._open_assignment()
        if assignment is None:
            return
        if not assignment.is_verified(self._fence.num_failures):
            await self._verify(assignment)
        ends = await self._transport.end_offsets(assignment.partitions)
        if not assignment.is_open:
            return
        assignment.set_ends(ends)
        assignment.set_fetched(self._transport.fetched())
        for (topic, partition), lag in assignment.lags().items():
            self._metrics.lag.labels(topic, partition).set(lag)
        if self._ticks_by is not None:
            await self._write_ticks(assignment, self._ticks_by)
        assignment.report(self._metrics)
        self._metrics.observe(assignment.joins, assignment.paused_topics(), hot_max_bytes=self._hot_max_bytes)

    async def _verify(self, assignment: Assignment) -> None:
        try:
            await assignment.verify(self._fence.num_failures)
        except LostRecordsError as error:
            if not assignment.is_closed:
                self._on_failure(error)

    async def _write_ticks(self, assignment: Assignment, worker: str) -> None:
        # A topic with an open transaction is slow, not idle: its records are older than their commit.
        high_watermarks = await self._transport.high_watermarks(assignment.partitions)
        if not assignment.is_open:
            return
        assignment.set_high_watermarks(high_watermarks)
        assignment.set_fetched(self._transport.fetched())
        self._tick_seq += 1
        writes = []
        for partition in assignment.partitions:
            tick = assignment.tick(partition, seq=self._tick_seq, worker=worker)
            writes.append(self._send(topics.TICKS, partition, [(str(partition).encode(), encode(tick), [])]))
        await asyncio.gather(*writes)

    def _observe(self, now_s: float) -> None:
        """Report all positions to the watchdog, by the ends known last: work may go on while heartbeats fail."""
        assignment = self._open_assignment()
        if assignment is None:
            self._watchdog.observe_recovery(now_s, self._transport.num_recovered)
            return
        assignment.set_fetched(self._transport.fetched())
        for each, lag in assignment.lags().items():
            self._watchdog.observe(now_s, each, assignment.position(each), 0 if assignment.is_paused(each) else lag)

    def _open_assignment(self) -> Assignment | None:
        return self.assignment if self.assignment is not None and self.assignment.is_open else None
