"""One join worker: reads slices, applies them to the join of their partition, and passes the effects to the gate.

Stops with a failure, never with an unconfirmed acknowledgement, when a write fails, an assumption breaks, or nothing
moves although there is lag. Whoever supervises it starts it again.

Source: STREAM.md 2 and 8.
"""

import asyncio
import gc
import logging
import os
import signal
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream import topics
from stream.agents import fetched, lease, marks
from stream.agents.gate import Gate, Row
from stream.agents.lease import Lease
from stream.agents.rows import Shelves
from stream.agents.settings import WorkerSettings
from stream.agents.slices import SliceApp, SliceConsumer, SliceTable, check_versions
from stream.agents.watchdog import Watchdog
from stream.agents.writer import BatchWriter
from stream.bus import Broker, partition_counts
from stream.errors import BusError, ConfigError, ShelfwiseError
from stream.events import Tick, encode
from stream.join import Join, JoinSettings
from stream.metrics import JoinMetrics
from stream.records import Record

log = logging.getLogger("shelfwise.stream")
_PULSE_S = 1.0
_STOP_S = 8.0
_BUFFERED_SLICES = 64
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
    ) -> None:
        """Prepare a worker; nothing connects yet.

        Raises:
            ConfigError: If topics are missing, their counts differ, or other releases than the pinned are installed.
        """
        check_versions()
        fetched.install()
        self._broker = broker
        self._settings = settings
        self._join_settings = join_settings
        self._metrics = metrics
        self._folder = folder
        self._num_partitions = _common_partition_count(broker)
        self._shelves = Shelves(folder)
        self._joins: dict[int, Join] = {}
        self._seen: dict[int, dict[str, int]] = {}
        self._paused: dict[int, frozenset[str]] = {}
        self._marks: dict[int, marks.Marks] = {}
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
        lease.install(self._lease)
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
        last_resort = threading.Timer(self._settings.drain_s + 3 * _STOP_S, _end_process)
        last_resort.daemon = True
        last_resort.start()
        self._suspend()
        if self._failure is None and not await self._gate.drain(self._settings.drain_s):
            log.warning("stopping with unconfirmed slices; they will be read again")
            # By their next owner, whose rows they must not follow.
            self._lease.mute()
        # One after the other, and not by cancelling: Faust swallows that, and the producer retries for ever.
        is_clean = await self._within(self._stop_app(starting)) and await self._within(self._writer.stop())
        if is_clean:
            last_resort.cancel()
        for table in self._tables:
            table.forget()
        self._shelves.close()

    async def _stop_app(self, starting: "asyncio.Task[None]") -> None:
        if self._failure is None and starting.done():
            await self._app.consumer.commit()
        starting.cancel()
        await self._app.stop()

    async def _within(self, step: Coroutine[object, object, None]) -> bool:
        """Run one step of the end; return whether it was done in time."""
        task = asyncio.get_running_loop().create_task(step)
        await asyncio.wait({task}, timeout=_STOP_S)
        error = task.exception() if task.done() and not task.cancelled() else None
        if error is None and task.done():
            return True
        # What matters is confirmed and committed, or will be read again.
        log.warning("unclean end of the transport: %r", error or f"not within {_STOP_S:.0f} s")
        task.cancel()
        return False

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

    # -- Faust

    def _build_app(self) -> SliceApp:
        settings, broker = self._settings, self._broker
        consumer_class = type("WorkerConsumer", (SliceConsumer,), {"before_revoke": staticmethod(self._before_revoke)})
        driver.Transport.Consumer = consumer_class
        app = SliceApp(
            settings.group,
            broker=[f"kafka://{address}" for address in broker.bootstrap.split(",")],
            broker_credentials=_credentials(broker),
            store="memory://",
            datadir=str(self._folder / "faust"),
            topic_allow_declare=False,
            topic_disable_leader=True,
            topic_partitions=self._num_partitions,
            table_standby_replicas=0,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=settings.instance or None,
            broker_session_timeout=self._session_s,
            broker_rebalance_timeout=6.0 if broker.memory else 30.0,
            broker_heartbeat_interval=1.0,
            broker_commit_interval=1.0,
            broker_request_timeout=30.0,
            producer_request_timeout=30.0,
            stream_wait_empty=False,
            stream_buffer_maxsize=_BUFFERED_SLICES,
            web_enabled=False,
            autodiscover=False,
        )
        self._tables = [
            self._build_table(app, name, changelog)
            for name, changelog in zip(("hot", "warm", "progress"), topics.CHANGELOGS, strict=True)
        ]
        self._hot, self._warm, self._progress = self._tables
        self._warm.new_shard = self._shelves.warm
        inputs = self._raw_topic(app, *topics.INPUTS)
        app.agent(inputs, name="join", concurrency=1)(self._consume)
        app.on_ready = self._on_ready
        return app

    def _raw_topic(self, app: "faust.App", *names: str, compacting: bool = False) -> "faust.TopicT":
        return app.topic(
            *names,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
            partitions=self._num_partitions,
            compacting=compacting,
        )

    def _build_table(self, app: "faust.App", name: str, changelog: str) -> SliceTable:
        table = SliceTable(
            app,
            name=name,
            key_type=bytes,
            value_type=bytes,
            partitions=self._num_partitions,
            changelog_topic=self._raw_topic(app, changelog, compacting=True),
            recovery_buffer_size=1,
        )
        table.shards = {}
        table.new_shard = lambda _partition: {}
        table.on_failure = self._fail
        app.tables.add(table)
        return table

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
            asyncio.get_running_loop().time() - self._app.assigned_s,
        )
        self._num_recovered = num_recovered
        self._metrics.rebalances.inc()
        self._watchdog.reset()
        self._marks = {partition: marks.unpack(self._progress.shard(partition).get(marks.KEY)) for partition in owned}
        self._opening = asyncio.get_running_loop().create_task(self._open(generation))

    async def _open(self, generation: int) -> None:
        """Let slices be taken once the log is known to hold what was merged."""
        assignment = self._marks
        try:
            await self._verify()
        except BusError as error:
            if assignment is self._marks:
                self._fail(error)
            return
        if assignment is self._marks and not self._ended.is_set():
            self._generation = generation
            # A beat may have watched the recovery while the log was asked; nothing would move that any more.
            self._watchdog.reset()
            self._ready.set()

    async def _verify_again(self) -> None:
        assignment = self._marks
        try:
            await self._verify()
        except marks.LostRecordsError as error:
            if assignment is self._marks:
                self._fail(error)

    async def _verify(self) -> None:
        num_failures = self._lease.num_failures
        held = {partition: dict(known) for partition, known in self._marks.items()}
        starts = {(name, number): at for number in held for name, at in self._starts(number).items()}
        await asyncio.to_thread(marks.verify, self._broker, held, starts)
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
        received_s = asyncio.get_running_loop().time()
        join = self._joins.get(partition) or await self._new_join(partition)
        if message.generation_id != self._generation:
            return
        first, last = records[0], records[-1]
        if first.offset <= self._read.get(message.tp, -1):
            # Faust has gone back to the commit, or aiokafka to the beginning as the log ends before its position.
            self._num_verified = -1
        self._read[message.tp] = last.offset
        effects = join.apply(records)
        known = self._marks[partition]
        if last.offset > known.get(message.topic, (-1, 0))[0]:
            known[message.topic] = (last.offset, last.timestamp)
            effects.progress = {**effects.progress, marks.KEY: marks.pack(known)}
        confirm = partial(join.confirm, effects.slice_number)
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
        self._positions[event.message.tp] = event.message.offset + 1
        for reason, count in reasons.items():
            self._metrics.sessions.labels(reason).inc(count)
        if reasons:
            self._metrics.emit_delay.observe(asyncio.get_running_loop().time() - received_s)

    async def _new_join(self, partition: int) -> Join:
        generation = self._generation
        inputs = [TP(name, partition) for name in topics.INPUTS]
        ends = await self._app.consumer.highwaters(*inputs)
        join = Join(
            partition,
            self._join_settings,
            self._hot.shard(partition),
            self._warm.shard(partition),
            self._progress.shard(partition),
            self._num_partitions,
        )
        join.seed(self._starts(partition), {TP(*tp).topic: end for tp, end in ends.items()})
        if generation == self._generation:
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
        if wanted:
            # Repeated on purpose: Faust's own back-pressure resumes partitions.
            self._app.consumer.pause_partitions({TP(name, partition) for name in wanted})
        for topic in wanted - paused:
            self._metrics.pauses.labels(topic).inc()
        if paused - wanted:
            self._app.consumer.resume_partitions({TP(name, partition) for name in paused - wanted})
        self._paused[partition] = wanted

    # -- every second

    async def _pulse(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            due_s = max(due_s + _PULSE_S, loop.time())
            await asyncio.sleep(due_s - loop.time())
            try:
                async with asyncio.timeout(self._settings.confirm_s):
                    await self._beat()
            except Exception as error:  # noqa: BLE001 - the next beat tries again; the watchdog sees a standstill
                log.warning("pulse: %r", error)
            if self._app.crashed:
                self._fail(BusError("Faust has crashed"))
            stuck = self._watchdog.check(loop.time())
            if stuck:
                self._fail(BusError(stuck))

    async def _beat(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if not self._ready.is_set():
            self._watchdog.observe_recovery(now_s, sum(table.num_recovered for table in self._tables))
            return
        if self._num_verified != self._lease.num_failures:
            # The broker was away; what it has lost by that, it does not tell.
            await self._verify_again()
        owned = self._owned()
        inputs = [TP(name, partition) for partition in owned for name in topics.INPUTS]
        ends = await self._app.consumer.highwaters(*inputs) if inputs else {}
        if not self._ready.is_set():
            return
        self._ends = {TP(*tp): end for tp, end in ends.items()}
        for partition in owned:
            for name, offset in self._starts(partition).items():
                self._positions.setdefault(TP(name, partition), offset)
        for tp, end in self._ends.items():
            lag = max(0, end - self._positions.get(tp, 0))
            self._metrics.lag.labels(tp.topic, tp.partition).set(lag)
            is_paused = tp.topic in self._paused.get(tp.partition, frozenset())
            self._watchdog.observe(now_s, tp, self._positions.get(tp, 0), 0 if is_paused else lag)
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

    def _report(self) -> None:
        for partition in self._joins:
            self._count(partition)
        joins = self._joins.values()
        self._metrics.open_sessions.set(sum(join.open_sessions for join in joins))
        self._metrics.waiting_events.set(sum(join.waiting_events for join in joins))
        self._metrics.hot_budget.set(len(joins) * self._join_settings.hot_max_bytes)
        paused = Counter(topic for wanted in self._paused.values() for topic in wanted)
        for topic in topics.EVENT_TOPICS:
            self._metrics.paused.labels(topic).set(paused[topic])
        for tier, num_bytes in _state_bytes(self._joins).items():
            self._metrics.state_bytes.labels(tier).set(num_bytes)
        for partition, join in self._joins.items():
            self._metrics.watermark_age.labels(partition).set(max(0, join.now_ts - join.watermark_ts) / 1_000)

    def _count(self, partition: int) -> None:
        self._metrics.count(self._joins[partition].counters, self._seen[partition])

    def _owned(self) -> list[int]:
        return sorted(tp.partition for tp in self._app.consumer.assignment() if tp.topic == topics.TICKS)


def _end_process() -> None:
    # Threads and tasks of the transport that hang would keep a worker alive that no longer works.
    log.error("the transport does not end")
    os._exit(1)


def _state_bytes(joins: dict[int, Join]) -> dict[str, int]:
    total: dict[str, int] = {}
    for join in joins.values():
        for tier, num_bytes in join.state_bytes.items():
            total[tier] = total.get(tier, 0) + num_bytes
    return total


def _common_partition_count(broker: Broker) -> int:
    wanted = [topic.name for topic in topics.ALL if topic.by_client]
    counts = partition_counts(broker)
    missing = [name for name in wanted if name not in counts]
    if missing:
        raise ConfigError(
            f"topics {', '.join(missing)} do not exist on {broker.bootstrap}; run `shelfwise kafka topics` first"
        )
    if len({counts[name] for name in wanted}) != 1:
        raise ConfigError(f"topics with client keys must have one partition count, got {counts}")
    return counts[topics.TICKS]


def _credentials(broker: Broker) -> "faust.auth.Credentials | None":
    security = broker.security
    if security.protocol == "PLAINTEXT":
        return None
    context = ssl.create_default_context(cafile=security.ca_file or None) if "SSL" in security.protocol else None
    if security.protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=security.username,
        password=security.password,
        mechanism=security.mechanism,
        ssl_context=context if security.protocol == "SASL_SSL" else None,
    )
