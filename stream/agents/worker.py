"""The process of a join worker: it starts, works on one assignment after the other, and stops.

A worker stops with an error, never with an unconfirmed acknowledgement, when a write fails, an assumption breaks, or
no offset moves although there is lag. Its supervisor starts it again.

Source: docs/stream.md.
"""

import asyncio
import gc
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import faust

from stream.agents import application, log_check, shutdown, upstream
from stream.agents.application import Hooks
from stream.agents.assignment import Assignment, Input
from stream.agents.backpressure import ReadAheadBudget
from stream.agents.commit_barrier import CommitBarrier
from stream.agents.fencing import MembershipFence
from stream.agents.heartbeat import Heartbeat
from stream.agents.log_check import LogFingerprint
from stream.agents.metrics import JoinMetrics
from stream.agents.settings import WorkerSettings
from stream.agents.stores import StoreFactory
from stream.agents.writer import BatchWriter
from stream.broker.admin import check_group
from stream.broker.connection import explain
from stream.broker.settings import Broker
from stream.errors import AccessError, BusError, ShelfwiseError
from stream.join.settings import JoinSettings
from stream.probes import ProbeServer
from stream.schemas.records import Record

log = logging.getLogger("shelfwise.stream")
_RARE_COLLECTIONS = (100_000, 20, 100)
_MEMORY_BROKER_SESSION_S = 6.0


class Worker:
    """One process of the join, for all partitions that its group assigns to it."""

    def __init__(
        self,
        broker: Broker,
        settings: WorkerSettings,
        join_settings: JoinSettings,
        *,
        folder: Path,
        metrics: JoinMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a worker without connecting its clients.

        Args:
            broker: Broker of the topics.
            settings: Settings of the process.
            join_settings: Settings of the join.
            folder: Folder of the state stores.
            metrics: Metrics of the process.
            clock: Monotonic seconds.

        Raises:
            ConfigError: If topics are missing, their counts differ, or other releases than the pinned are installed.
        """
        upstream.check_versions()
        self._broker = broker
        self._settings = settings
        self._join_settings = join_settings
        self._metrics = metrics
        self._folder = folder
        self._clock = clock
        self._num_partitions = application.common_partition_count(broker)
        check_group(broker, settings.group)
        self._stores = StoreFactory(folder)
        self._read_ahead = ReadAheadBudget(settings.read_ahead_bytes)
        self._assignment: Assignment | None = None
        self._is_open = asyncio.Event()
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        self._num_recovered = 0

    def unready_reason(self) -> str | None:
        """Return the reason why this worker joins no events, or None if it does."""
        if self._failure is not None:
            return f"stopping after a failure: {self._failure}"
        if self._ended.is_set():
            return "stopping"
        if not self._is_open.is_set():
            return "waiting for an assignment of partitions, or for its recovery"
        return None

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            ShelfwiseError: When the worker had to stop.
        """
        # Records and rows form no cycles, but every search for cycles walks all open queries: a tenth of the time.
        gc.set_threshold(*_RARE_COLLECTIONS)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        with ExitStack() as stack:
            if self._settings.metrics_port:
                host, port = self._settings.metrics_host, self._settings.metrics_port
                stack.enter_context(
                    ProbeServer(host, port, self._metrics.registry, self.unready_reason, section="worker")
                )
            self._connect()
            await self._writer.start()
            starting = loop.create_task(self._app.start())
            beating = loop.create_task(self._heartbeat.run())
            try:
                await self._ended.wait()
            finally:
                beating.cancel()
                await self._stop(starting)
        if self._failure is not None:
            if self._app.crash_reason is not None:
                crash = explain(self._app.crash_reason, self._broker, "Faust has crashed")
                if isinstance(crash, AccessError):
                    raise crash from self._failure
            if isinstance(self._failure, ShelfwiseError):
                raise self._failure
            raise explain(self._failure, self._broker, "the worker had to stop") from self._failure

    def _connect(self) -> None:
        """Make the clients; the fence and the overrides come first, because clients are bound to them when made."""
        loop, settings = asyncio.get_running_loop(), self._settings
        session_s = _MEMORY_BROKER_SESSION_S if self._broker.memory else settings.session_s
        self._fence = MembershipFence(session_s, lambda: loop.call_soon_threadsafe(self._on_expelled))
        upstream.install(self._fence, self._before_revoke)
        self._writer = BatchWriter(self._broker, request_timeout_s=settings.confirm_s)
        self._barrier = CommitBarrier(
            self._writer.send,
            max_in_flight=settings.max_in_flight,
            confirm_s=settings.confirm_s,
            on_failure=self._fail,
        )
        self._app = application.build(
            self._broker,
            settings,
            num_partitions=self._num_partitions,
            session_s=session_s,
            folder=self._folder,
            read_ahead=self._read_ahead,
            clock=self._clock,
            hooks=Hooks(
                consume=self._consume,
                on_ready=self._on_ready,
                on_failure=self._fail,
                new_warm_store=self._stores.open_warm,
            ),
        )
        self._heartbeat = Heartbeat(
            self._app,
            self._fence,
            self._writer.send,
            metrics=self._metrics,
            on_failure=self._fail,
            hot_max_bytes=self._join_settings.hot_max_bytes,
            ticks_by=(settings.instance or settings.group) if self._join_settings.ticks == "worker" else None,
            watchdog_s=settings.watchdog_s,
            timeout_s=settings.confirm_s,
            clock=self._clock,
        )

    # -- the end

    def _fail(self, error: BaseException) -> None:
        self._fence.close()
        if self._failure is None:
            self._failure = error
            log.error("stopping: %s", error)
        self._ended.set()

    def _on_expelled(self) -> None:
        # Without joining again: state, input and writes in flight belong to an ownership that is over.
        if not self._ended.is_set():
            self._fail(
                BusError("the group has expelled this worker: it was silent for too long; another one took over")
            )

    async def _stop(self, starting: "asyncio.Task[None]") -> None:
        deadline = shutdown.exit_deadline(self._settings.drain_s + 3 * shutdown.STEP_S)
        self._suspend()
        if self._failure is None and not await self._barrier.drain(self._settings.drain_s):
            log.warning("stopping with unconfirmed micro-batches; they will be read again")
            # By their next owner, whose rows these must not follow.
            self._fence.close()
        # One after the other, and not by cancelling: Faust swallows that, and the producer retries for ever.
        if await shutdown.finish(self._stop_app(starting)) and await shutdown.finish(self._writer.stop()):
            deadline.cancel()
        self._app.drop_stores()
        self._stores.close()

    async def _stop_app(self, starting: "asyncio.Task[None]") -> None:
        if self._failure is None and starting.done():
            await self._app.consumer.commit()
        starting.cancel()
        await self._app.stop()

    # -- assignments

    async def _before_revoke(self) -> None:
        self._suspend()
        if not await self._barrier.drain(self._settings.drain_s):
            self._fail(self._failure or BusError(f"revoked partitions did not drain in {self._settings.drain_s:.0f} s"))
        if self._assignment is not None:
            self._assignment.report(self._metrics)
            self._assignment = None
        self._heartbeat.end()

    def _suspend(self) -> None:
        self._is_open.clear()
        if self._assignment is not None:
            self._assignment.close()

    def _on_ready(self, generation: int) -> None:
        owned = self._app.owned_partitions()
        log.info(
            "owns partitions %s of %d; %d changelog rows read in %.2f s",
            owned,
            self._num_partitions,
            self._app.num_recovered - self._num_recovered,
            self._clock() - self._app.assigned_s,
        )
        self._num_recovered = self._app.num_recovered
        self._metrics.rebalances.inc()
        # Faust also ends a rebalance that has revoked nothing.
        self._suspend()
        self._heartbeat.end()
        self._assignment = Assignment(
            generation,
            {partition: self._app.stores_of(partition) for partition in owned},
            self._app.starts(),
            settings=self._join_settings,
            num_partitions=self._num_partitions,
            check_log=self._check_log,
        )
        self._opening = asyncio.get_running_loop().create_task(self._open(self._assignment))

    async def _open(self, assignment: Assignment) -> None:
        try:
            is_open = await assignment.open(
                partial(self._app.end_offsets, assignment.partitions), self._fence.num_failures
            )
        except Exception as error:  # noqa: BLE001 - an assignment that cannot be opened stands still
            if not assignment.is_closed:
                self._fail(error)
            return
        if is_open and not self._ended.is_set():
            self._heartbeat.begin(assignment)
            self._is_open.set()

    async def _check_log(self, fingerprints: Mapping[int, LogFingerprint], starts: Mapping[Input, int]) -> None:
        await asyncio.to_thread(log_check.verify, self._broker, fingerprints, starts)

    # -- micro-batches

    async def _consume(self, stream: "faust.StreamT[bytes]") -> None:
        assert isinstance(stream, faust.Stream)
        try:
            async for event in stream.noack().events():
                await self._take(event)
                # The queue may never be empty under load; the tasks of the commit barrier need their turn.
                await asyncio.sleep(0)
        except Exception as error:
            log.exception("the agent failed")
            self._fail(error)

    async def _take(self, event: "faust.EventT[bytes]") -> None:
        await self._is_open.wait()
        await self._barrier.wait_for_room()
        message, assignment = event.message, self._assignment
        if assignment is None or not assignment.is_open or message.generation_id != assignment.generation:
            return  # of an assignment that has ended: its next owner reads it again from the commit
        records: Sequence[Record] = message.value  # type: ignore[assignment]  # a micro-batch travels as one value
        received_s = self._clock()
        output = assignment.apply(records)
        join, reasons = assignment.joins[message.partition], Counter(output.reasons)
        acknowledge = partial(
            self._acknowledge, assignment, event, partial(join.confirm, output.batch_number), received_s, reasons
        )
        self._barrier.submit(message.partition, output, acknowledge)
        self._metrics.events.labels(message.topic).inc(len(records))
        to_pause, to_resume = assignment.pause(message.partition, output.pause)
        self._app.pause(to_pause)
        self._app.resume(to_resume)
        for topic, _ in to_pause:
            self._metrics.pauses.labels(topic).inc()

    def _acknowledge(
        self,
        assignment: Assignment,
        event: "faust.EventT[bytes]",
        confirm: Callable[[], None],
        received_s: float,
        reasons: Mapping[str, int],
    ) -> None:
        confirm()
        event.ack()
        message = event.message
        self._read_ahead.release(message.serialized_value_size)
        assignment.acknowledge(message.topic, message.partition, message.offset)
        for reason, count in reasons.items():
            self._metrics.sessions.labels(reason).inc(count)
        if reasons:
            self._metrics.emit_delay.observe(self._clock() - received_s)
