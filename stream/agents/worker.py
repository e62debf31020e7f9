"""One join worker: reads slices, applies them to the join of their partition, and passes the effects to the gate.

Stops with a failure, never with an unconfirmed acknowledgement, when a write fails, an assumption breaks, or nothing
moves although there is lag. Whoever supervises it starts it again.

Source: STREAM.md 2 and 8.
"""

import asyncio
import gc
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import faust
from faust.types import TP

from stream.agents import aiokafka_records, application, fencing, log_check, shutdown
from stream.agents.application import Hooks
from stream.agents.backpressure import ReadAhead
from stream.agents.commit_barrier import Gate, Row
from stream.agents.faust_consumer import SliceApp, SliceConsumer, check_versions
from stream.agents.fencing import Lease
from stream.agents.metrics import JoinMetrics
from stream.agents.settings import WorkerSettings
from stream.agents.stores import StoreFactory
from stream.agents.watchdog import Watchdog
from stream.agents.writer import BatchWriter
from stream.broker.settings import Broker
from stream.errors import BusError, ShelfwiseError
from stream.join import Join, JoinSettings
from stream.schemas import topics
from stream.schemas.events import Tick, encode
from stream.schemas.records import Record

log = logging.getLogger("shelfwise.stream")
_PULSE_S = 1.0
_RARE_COLLECTIONS = (100_000, 20, 100)


class Worker:
    """One process of the join, for as many partitions as its group gives it."""

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
        """Prepare a worker; nothing connects yet.

        Args:
            broker: Broker whose topics are joined.
            settings: Settings of the process.
            join_settings: Settings of the join.
            folder: Folder of the state stores.
            metrics: Metrics of the process.
            clock: Monotonic seconds from any start.

        Raises:
            ConfigError: If topics are missing, their counts differ, or other releases than the pinned are installed.
        """
        check_versions()
        aiokafka_records.install()
        self._broker = broker
        self._settings = settings
        self._join_settings = join_settings
        self._metrics = metrics
        self._clock = clock
        self._folder = folder
        self._num_partitions = application.common_partition_count(broker)
        self._stores = StoreFactory(folder)
        self._joins: dict[int, Join] = {}
        self._seen: dict[int, dict[str, int]] = {}
        self._paused: dict[int, frozenset[str]] = {}
        self._marks: dict[int, log_check.Marks] = {}
        self._read: dict[TP, int] = {}
        self._num_verified = 0
        self._num_recovered = 0
        self._positions: dict[TP, int] = {}
        self._ends: dict[TP, int] = {}
        self._tick_seq = 0
        self._ready = asyncio.Event()
        self._generation: int | None = None
        self._failure: BaseException | None = None
        self._ended = asyncio.Event()
        self._session_s = 6.0 if broker.memory else settings.session_s
        self._watchdog = Watchdog(settings.watchdog_s)
        self._ahead = ReadAhead(settings.read_ahead_bytes)

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT.

        Raises:
            ShelfwiseError: When the worker had to stop.
        """
        # Records and rows form no cycles, but every search for cycles walks all open queries: a tenth of the time.
        gc.set_threshold(*_RARE_COLLECTIONS)
        loop = asyncio.get_running_loop()
        # Before any client is made: they are bound to it.
        self._lease = Lease(self._session_s, lambda: loop.call_soon_threadsafe(self._on_evicted))
        fencing.install(self._lease)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        self._writer = BatchWriter(self._broker, request_timeout_s=self._settings.confirm_s)
        self._gate = Gate(
            self._writer.send,
            max_in_flight=self._settings.max_in_flight,
            confirm_s=self._settings.confirm_s,
            on_failure=self._fail,
        )
        self._app = self._build_app()
        await self._writer.start()
        starting = loop.create_task(self._app.start())
        pulse = loop.create_task(self._pulse())
        try:
            await self._ended.wait()
        finally:
            pulse.cancel()
            await self._stop(starting)
        if self._failure is not None:
            if isinstance(self._failure, ShelfwiseError):
                raise self._failure
            raise BusError(f"the worker had to stop: {self._failure!r}") from self._failure

    async def _stop(self, starting: "asyncio.Task[None]") -> None:
        last_resort = shutdown.last_resort(self._settings.drain_s + 3 * shutdown.STEP_S)
        self._suspend()
        if self._failure is None and not await self._gate.drain(self._settings.drain_s):
            log.warning("stopping with unconfirmed slices; they will be read again")
            # By their next owner, whose rows they must not follow.
            self._lease.mute()
        # One after the other, and not by cancelling: Faust swallows that, and the producer retries for ever.
        if await shutdown.within(self._stop_app(starting)) and await shutdown.within(self._writer.stop()):
            last_resort.cancel()
        for table in self._tables:
            table.forget()
        self._stores.close()

    async def _stop_app(self, starting: "asyncio.Task[None]") -> None:
        if self._failure is None and starting.done():
            await self._app.consumer.commit()
        starting.cancel()
        await self._app.stop()

    def _fail(self, error: BaseException) -> None:
        self._lease.mute()
        if self._failure is None:
            self._failure = error
            log.error("stopping: %s", error)
        self._ended.set()

    def _on_evicted(self) -> None:
        # Not rejoined from here: what was recovered, read ahead or under way belongs to an ownership that is over.
        if not self._ended.is_set():
            self._fail(
                BusError("the group has given up this worker: it was silent for too long; another one took over")
            )

    def _build_app(self) -> SliceApp:
        app, self._tables = application.build(
            self._broker,
            self._settings,
            num_partitions=self._num_partitions,
            session_s=self._session_s,
            folder=self._folder,
            ahead=self._ahead,
            clock=self._clock,
            hooks=Hooks(
                consume=self._consume,
                before_revoke=self._before_revoke,
                on_ready=self._on_ready,
                on_failure=self._fail,
                new_warm_shard=self._stores.open_warm,
            ),
        )
        self._hot, self._warm, self._progress = self._tables
        return app

    # -- assignments

    async def _before_revoke(self) -> None:
        self._suspend()
        if not await self._gate.drain(self._settings.drain_s):
            self._fail(self._failure or BusError(f"revoked partitions did not drain in {self._settings.drain_s:.0f} s"))
        for partition in list(self._joins):
            self._count(partition)
        self._joins.clear()
        self._marks = {}
        self._read.clear()
        self._seen.clear()
        self._paused.clear()
        self._positions.clear()
        self._ends.clear()
        self._watchdog.reset()
        # Their next owner reports them.
        self._metrics.lag.clear()
        self._metrics.watermark_age.clear()

    def _suspend(self) -> None:
        self._ready.clear()
        self._generation = None

    def _is_recovered(self) -> bool:
        """Say whether the changelogs of what is owned now were read to their ends.

        Faust also reports the end of a recovery that another rebalance has overtaken, when the stores are empty again.
        """
        recovery = self._app.tables.recovery  # type: ignore[attr-defined]  # missing in Faust's interface type
        offsets, ends = recovery.active_offsets, recovery.active_highwaters
        changelogs = [TP(name, partition) for name in topics.CHANGELOGS for partition in self._owned()]
        return all(tp in ends and tp in offsets and offsets[tp] >= ends[tp] for tp in changelogs)

    def _on_ready(self, generation: int) -> None:
        if not self._is_recovered():
            self._app.is_ready = False
            log.warning("a recovery ended that another rebalance had overtaken")
            return
        for table in self._tables:
            table.is_recovering = False
        owned = self._owned()
        num_recovered = sum(table.num_recovered for table in self._tables)
        log.info(
            "owns partitions %s of %d; %d changelog rows read in %.2f s",
            owned,
            self._num_partitions,
            num_recovered - self._num_recovered,
            self._clock() - self._app.assigned_s,
        )
        self._num_recovered = num_recovered
        self._metrics.rebalances.inc()
        self._watchdog.reset()
        self._marks = {
            partition: log_check.unpack(self._progress.shard(partition).get(log_check.KEY)) for partition in owned
        }
        self._opening = asyncio.get_running_loop().create_task(self._open(generation))

    async def _open(self, generation: int) -> None:
        """Let slices be taken once the log is known to hold what was merged, and where it ends."""
        assignment = self._marks
        try:
            await self._verify()
            # For all at once: each question waits behind a fetch.
            owned = self._owned()
            ends = await self._find_ends(owned)
        except Exception as error:  # noqa: BLE001 - whatever it is, an assignment that is not opened stands still
            if assignment is self._marks:
                self._fail(error)
            return
        if assignment is self._marks and not self._ended.is_set():
            self._ends = ends
            self._positions = {TP(name, number): at for number in owned for name, at in self._starts(number).items()}
            self._generation = generation
            # A beat may have watched the recovery while the log was asked; nothing would move that any more.
            self._watchdog.reset()
            self._watchdog.answered(self._clock())
            self._ready.set()

    async def _verify_again(self) -> None:
        assignment = self._marks
        try:
            await self._verify()
        except log_check.LostRecordsError as error:
            if assignment is self._marks:
                self._fail(error)

    async def _verify(self) -> None:
        num_failures = self._lease.num_failures
        held = {partition: dict(known) for partition, known in self._marks.items()}
        starts = {(name, number): at for number in held for name, at in self._starts(number).items()}
        await asyncio.to_thread(log_check.verify, self._broker, held, starts)
        self._num_verified = num_failures

    # -- one slice

    async def _consume(self, stream: "faust.StreamT[bytes]") -> None:
        assert isinstance(stream, faust.Stream)
        try:
            async for event in stream.noack().events():
                await self._take(event)
                # The queue may never be empty under load; the gate's tasks need their turn.
                await asyncio.sleep(0)
        except Exception as error:
            log.exception("the agent failed")
            self._fail(error)

    async def _take(self, event: "faust.EventT[bytes]") -> None:
        await self._ready.wait()
        await self._gate.room()
        message = event.message
        if message.generation_id != self._generation:
            return  # of an assignment that has ended: its next owner reads it again from the commit
        records: Sequence[Record] = message.value  # type: ignore[assignment]  # a slice travels as one value
        partition = message.partition
        received_s = self._clock()
        join = self._joins.get(partition) or self._new_join(partition)
        first, last = records[0], records[-1]
        if first.offset <= self._read.get(message.tp, -1):
            # Faust has gone back to the commit, or aiokafka to the beginning as the log ends before its position.
            self._num_verified = -1
        self._read[message.tp] = last.offset
        effects = join.apply(records)
        known = self._marks[partition]
        if last.offset > known.get(message.topic, (-1, 0))[0]:
            known[message.topic] = (last.offset, last.timestamp)
            effects.progress = {**effects.progress, log_check.KEY: log_check.pack(known)}
        confirm = partial(join.confirm, effects.batch_number)
        reasons = Counter(effects.reasons)
        self._gate.submit(partition, effects, partial(self._acknowledge, event, confirm, received_s, reasons))
        self._metrics.events.labels(message.topic).inc(len(records))
        self._pause(partition, effects.pause)

    def _acknowledge(
        self,
        event: "faust.EventT[bytes]",
        confirm: Callable[[], None],
        received_s: float,
        reasons: Mapping[str, int],
    ) -> None:
        confirm()
        event.ack()
        self._ahead.give(event.message.serialized_value_size)
        self._positions[event.message.tp] = event.message.offset + 1
        for reason, count in reasons.items():
            self._metrics.sessions.labels(reason).inc(count)
        if reasons:
            self._metrics.emit_delay.observe(self._clock() - received_s)

    def _new_join(self, partition: int) -> Join:
        join = Join(
            partition,
            self._join_settings,
            self._hot.shard(partition),
            self._warm.shard(partition),
            self._progress.shard(partition),
            self._num_partitions,
        )
        join.seed(
            self._starts(partition), {tp.topic: end for tp, end in self._ends.items() if tp.partition == partition}
        )
        self._joins[partition] = join
        # What was counted before this process is not this process's to report.
        self._seen[partition] = dict(join.counters)
        return join

    def _starts(self, partition: int) -> dict[str, int]:
        consumer = self._app.consumer
        assert isinstance(consumer, SliceConsumer)
        return {tp.topic: offset for tp, offset in consumer.starts.items() if tp.partition == partition}

    def _pause(self, partition: int, wanted: frozenset[str]) -> None:
        paused = self._paused.get(partition, frozenset())
        if wanted - paused:
            self._app.consumer.pause_partitions({TP(name, partition) for name in wanted - paused})
        for topic in wanted - paused:
            self._metrics.pauses.labels(topic).inc()
        if paused - wanted:
            self._app.consumer.resume_partitions({TP(name, partition) for name in paused - wanted})
        self._paused[partition] = wanted

    # -- every second

    async def _pulse(self) -> None:
        due_s = self._clock()
        self._watchdog.answered(due_s)
        while True:
            due_s = max(due_s + _PULSE_S, self._clock())
            await asyncio.sleep(due_s - self._clock())
            try:
                async with asyncio.timeout(self._settings.confirm_s):
                    await self._beat()
                self._watchdog.answered(self._clock())
            except Exception as error:  # noqa: BLE001 - the next beat tries again; the watchdog sees a standstill
                log.warning("pulse: %r", error)
            if self._app.crashed:
                self._fail(BusError("Faust has crashed"))
            self._look(self._clock())
            stuck = self._watchdog.check(self._clock())
            if stuck:
                self._fail(BusError(stuck))

    def _look(self, now_s: float) -> None:
        """Tell the watchdog where all stands, by the ends known last: slices may be taken while beats fail."""
        if not self._ready.is_set():
            self._watchdog.observe_recovery(now_s, sum(table.num_recovered for table in self._tables))
            return
        for tp in self._ends:
            is_paused = tp.topic in self._paused.get(tp.partition, frozenset())
            self._watchdog.observe(now_s, tp, self._positions.get(tp, 0), 0 if is_paused else self._lag(tp))

    def _lag(self, tp: TP) -> int:
        return max(0, self._ends[tp] - self._positions.get(tp, 0))

    async def _beat(self) -> None:
        if not self._ready.is_set():
            return
        if self._num_verified != self._lease.num_failures:
            # The broker was away; what it has lost by that, it does not tell.
            await self._verify_again()
        owned = self._owned()
        ends = await self._find_ends(owned)
        if not self._ready.is_set():
            return
        self._ends = ends
        for tp in ends:
            self._metrics.lag.labels(tp.topic, tp.partition).set(self._lag(tp))
        if self._join_settings.ticks == "worker":
            await self._write_ticks(owned)
        self._report()

    async def _write_ticks(self, owned: Sequence[int]) -> None:
        self._tick_seq += 1
        writes = []
        for partition in owned:
            tick = Tick(
                partition=partition,
                seq=self._tick_seq,
                worker=self._settings.instance or self._settings.group,
                pos={name: self._positions.get(TP(name, partition), 0) for name in topics.EVENT_TOPICS},
                hw={name: self._ends.get(TP(name, partition), 0) for name in topics.EVENT_TOPICS},
            )
            row: Row = (str(partition).encode(), encode(tick), [])
            writes.append(self._writer.send(topics.TICKS, partition, [row]))
        await asyncio.gather(*writes)

    async def _find_ends(self, partitions: Sequence[int]) -> dict[TP, int]:
        inputs = [TP(name, partition) for partition in partitions for name in topics.INPUTS]
        ends = await self._app.consumer.highwaters(*inputs) if inputs else {}
        return {TP(*tp): end for tp, end in ends.items()}

    def _report(self) -> None:
        for partition in self._joins:
            self._count(partition)
        self._metrics.observe(self._joins, self._paused.values(), hot_max_bytes=self._join_settings.hot_max_bytes)

    def _count(self, partition: int) -> None:
        self._metrics.count(self._joins[partition].counters, self._seen[partition])

    def _owned(self) -> list[int]:
        return sorted(tp.partition for tp in self._app.consumer.assignment() if tp.topic == topics.TICKS)
