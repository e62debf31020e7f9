"""Pins each method and attribute of Faust and aiokafka that `stream.agents` overrides, calls or reads.

A failure here means that an upgrade has changed one of them: compare `stream/agents/faust_consumer.py`, `fetched.py`,
`worker.py` and `writer.py` with the new source before touching the expectation.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer import fetcher
from aiokafka.errors import IllegalStateError
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.app.base import App
from faust.tables.recovery import Recovery
from faust.transport.base import Transport
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from stream.agents import application, worker
from stream.agents.backpressure import ReadAhead
from stream.agents.faust_consumer import FETCH_BYTES, FETCH_LEAST_BYTES, FETCH_WAIT_MS, SLICE, SliceApp, SliceConsumer
from stream.agents.metrics import JoinMetrics
from stream.agents.settings import WorkerSettings
from stream.broker.settings import Broker
from stream.join import JoinSettings
from stream.schemas import topics

CLICKS, IMPRESSIONS = TP(topics.CLICKS, 0), TP(topics.IMPRESSIONS, 0)
HOT = TP(topics.HOT_CHANGELOG, 0)

SHAPES: list[tuple[type, str]] = [
    # Overridden.
    (App, "on_rebalance_start(self)"),
    (App, "on_rebalance_end(self)"),
    (driver.Consumer, "_new_consumer_thread(self)"),
    (driver.Consumer, "async perform_seek(self)"),
    (driver.Consumer, "async on_partitions_revoked(self, revoked)"),
    (driver.Consumer, "async _add_gap(self, tp, offset_from, offset_to)"),
    (driver.Consumer, "_new_offset(self, tp)"),
    (driver.Consumer, "async _getmany(self, active_partitions, timeout)"),
    (driver.Consumer, "async generator getmany(self, timeout)"),
    (driver.AIOKafkaConsumerThread, "_create_worker_consumer(self, transport)"),
    (faust.Table, "async on_rebalance(self, assigned, revoked, newly_assigned, generation_id)"),
    (faust.Table, "apply_changelog_batch(self, batch)"),
    (fetcher.PartitionRecords, "_consumer_record(self, tp, record)"),
    # Called.
    (App, "async start(self)"),
    (App, "async stop(self)"),
    (App, "agent(self, channel, name, concurrency, supervisor_strategy, sink, isolated_partitions, use_reply_headers, "
          "**kwargs)"),
    (App, "property consumer"),
    (App, "property monitor"),
    (driver.Consumer, "async _wait_next_records(self, timeout)"),
    (driver.Consumer, "_is_changelog_tp(self, tp)"),
    (driver.Consumer, "assignment(self)"),
    (driver.Consumer, "async earliest_offsets(self, *partitions)"),
    (driver.Consumer, "highwater(self, tp)"),
    (driver.Consumer, "async highwaters(self, *partitions)"),
    (driver.Consumer, "async commit(self, topics, start_new_transaction)"),
    (driver.Consumer, "pause_partitions(self, tps)"),
    (driver.Consumer, "resume_partitions(self, tps)"),
    (Transport, "create_consumer(self, callback, **kwargs)"),
    (Recovery, "revoke(self, tp)"),
    (faust.Table, "property changelog_topic"),
    (faust.Topic, "get_topic_name(self)"),
    (faust.Stream, "noack(self)"),
    (faust.Stream, "async generator events(self)"),
    (faust.Event, "ack(self)"),
    (AIOKafkaProducer, "create_batch(self)"),
    (AIOKafkaProducer, "async send_batch(self, batch, topic, partition)"),
    (AIOKafkaProducer, "async start(self)"),
    (AIOKafkaProducer, "async stop(self)"),
    (BatchBuilder, "append(self, timestamp, key, value, headers)"),
    (BatchBuilder, "close(self)"),
    (BatchBuilder, "record_count(self)"),
]  # fmt: skip


def _shape(owner: type, name: str) -> str:
    """Return kind, name and parameters of a method, whatever decorators it bears."""
    found = inspect.getattr_static(owner, name)
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    if isinstance(found, property):
        return f"property {name}"
    marks: dict[int, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = ", ".join(marks.get(p.kind, "") + p.name for p in inspect.signature(found).parameters.values())
    is_generator, is_async = inspect.isasyncgenfunction(found), inspect.iscoroutinefunction(found)
    return f"{'async generator ' if is_generator else 'async ' if is_async else ''}{name}({parameters})"


@pytest.mark.parametrize(("owner", "shape"), SHAPES, ids=[f"{o.__name__}.{s.split('(')[0]}" for o, s in SHAPES])
def test_what_is_overridden_or_called_looks_as_it_did(owner: type, shape: str) -> None:
    name = shape.split("(", maxsplit=1)[0].rsplit(maxsplit=1)[-1]
    assert _shape(owner, name) == shape


class _World:
    """The worker's own app and consumer, with a stand-in for the thread that would speak to the broker."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(application, "common_partition_count", lambda _broker: 1)
        # Both are replaced for the whole process when a worker is made.
        monkeypatch.setattr(driver.Transport, "Consumer", driver.Transport.Consumer)
        monkeypatch.setattr(fetcher, "PartitionRecords", fetcher.PartitionRecords)
        self.worker = worker.Worker(
            Broker(bootstrap="127.0.0.1:1"),
            WorkerSettings(instance="one"),
            JoinSettings(),
            folder=folder,
            metrics=JoinMetrics(),
        )
        self.app: Any = self.worker._build_app()
        self.worker._app = self.app
        self.log: list[object] = []
        self.committed: dict[TP, int | None] = {}
        self.first: dict[TP, int] = {}
        self.fetched: dict[TP, list[Any]] = {}
        consumer: Any = self.app.consumer
        self.consumer: Any = consumer
        self.thread = consumer._thread
        self.consumer._thread = SimpleNamespace(
            assignment=lambda: {CLICKS, IMPRESSIONS, HOT},
            seek_to_committed=self._answer(lambda: dict(self.committed)),
            earliest_offsets=self._answer(lambda *tps: {tp: self.first[tp] for tp in tps}),
            commit=self._answer(self._commit),
            getmany=self._answer(self._fetch),
            highwater=lambda _tp: 99,
        )
        self.consumer.flow_active = True

    def _answer(self, function: Callable[..., object]) -> Callable[..., Awaitable[object]]:
        async def answer(*arguments: object) -> object:
            return function(*arguments)

        return answer

    def _commit(self, offsets: dict[TP, int]) -> bool:
        self.log.append(("commit", dict(offsets)))
        return True

    def _fetch(self, wanted: set[TP], _timeout: float) -> dict[TP, list[Any]]:
        self.log.append(("fetch", frozenset(wanted)))
        return {tp: records for tp, records in self.fetched.items() if tp in wanted}


Scenario = Callable[[_World], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a scenario with a worker's app that connects to nothing."""

    def run(scenario: Scenario) -> None:
        async def all_of_it() -> None:
            world = _World(tmp_path, monkeypatch)
            try:
                await scenario(world)
            finally:
                # It has a loop of its own from the start.
                world.thread.thread_loop.close()
                world.worker._stores.close()

        asyncio.run(all_of_it())

    return run


def test_settings_mean_what_the_worker_takes_them_for(play: Play) -> None:
    async def scenario(world: _World) -> None:
        conf = world.app.conf
        assert (conf.web_enabled, conf.topic_allow_declare, conf.topic_disable_leader) == (False, False, True)
        assert (conf.table_standby_replicas, conf.stream_wait_empty) == (0, False)
        assert conf.stream_buffer_maxsize == 1_000_000
        assert (conf.consumer_auto_offset_reset, conf.consumer_group_instance_id) == ("earliest", "one")
        assert (conf.broker_commit_interval, conf.producer_request_timeout) == (1.0, 30.0)
        assert conf.processing_guarantee.value == "at_least_once"
        assert world.app.agents["join"].concurrency == 1
        assert {table.changelog_topic.get_topic_name() for table in world.app.tables.values()} == set(topics.CHANGELOGS)
        assert world.app.crashed is False

    play(scenario)


def test_the_transport_makes_our_consumer(play: Play) -> None:
    async def scenario(world: _World) -> None:
        assert isinstance(world.consumer, SliceConsumer)
        assert world.app.consumer is world.consumer, "one for the life of the app"
        assert (world.consumer.starts, world.app.rebalancing_count, world.app.consumer_generation_id) == ({}, 0, 0)

    play(scenario)


def test_the_wait_of_a_fetch_can_be_changed_before_the_start(play: Play) -> None:
    """Faust asks the broker to wait 1.5 s; the attribute is read when the consumer starts, not when it is made."""

    async def scenario(world: _World) -> None:
        upstream = driver.AIOKafkaConsumerThread._create_worker_consumer(world.thread, world.app.transport)
        assert upstream._fetch_max_wait_ms == 1_500
        ours = world.thread._create_worker_consumer(world.app.transport)
        assert isinstance(ours, AIOKafkaConsumer)
        assert ours._fetch_max_wait_ms == FETCH_WAIT_MS
        assert (ours._fetch_min_bytes, ours._fetch_max_bytes) == (FETCH_LEAST_BYTES, FETCH_BYTES)
        assert ours._enable_auto_commit is False
        for made in (upstream, ours):
            await made.stop()

    play(scenario)
    for name in ("fetch_max_wait_ms", "fetch_min_bytes", "fetch_max_bytes"):
        assert f"{name}=self._{name}" in inspect.getsource(AIOKafkaConsumer.start)


def test_the_fetcher_looks_its_record_class_up_when_it_fetches() -> None:
    assert "PartitionRecords(" in inspect.getsource(fetcher.Fetcher)
    assert fetcher.Fetcher._proc_fetch_request.__globals__ is vars(fetcher)


def test_seeking_goes_to_commits_and_to_the_beginning_of_the_others(play: Play) -> None:
    """`_read_offset` holds the commits after the upstream part, None where there is none; 0 is a commit.

    Upstream leaves the others where they are, which is past what was fetched and dropped.
    """

    async def scenario(world: _World) -> None:
        world.committed, world.first = {CLICKS: 0, IMPRESSIONS: -1, HOT: -1}, {IMPRESSIONS: 40}
        sought: list[dict[TP, int]] = []
        world.consumer._thread.seek_wait = world._answer(sought.append)
        await world.consumer.perform_seek()
        assert sought == [{IMPRESSIONS: 40}]
        assert world.consumer._read_offset[CLICKS] == 0
        assert world.consumer._read_offset[IMPRESSIONS] is None
        assert world.consumer.starts == {CLICKS: 0, IMPRESSIONS: 40}

    play(scenario)


def test_acknowledged_slices_are_committed_up_to_the_newest(play: Play) -> None:
    """`ack` fills `_acked`, `commit` asks `_new_offset` once per partition in it and keeps to the assignment."""

    async def scenario(world: _World) -> None:
        world.app.topics._acking_topics = {topics.CLICKS}
        foreign = TP(topics.CLICKS, 7)
        for tp, offset in ((CLICKS, 511), (CLICKS, 1_023), (foreign, 9)):
            message = _message(tp, offset)
            message.incref()
            event = faust.Event(world.app, None, b"v", None, message)
            assert event.ack()
        assert world.consumer._acked[CLICKS] == [511, 1_023]
        assert await world.consumer.commit()
        assert world.log == [("commit", {CLICKS: 1_024})]
        assert world.consumer._committed_offset[CLICKS] == 1_024
        assert not await world.consumer.commit(), "nothing is left to commit"

    play(scenario)


def _message(tp: TP, offset: int, generation: int = 0) -> ConsumerMessage:
    return ConsumerMessage(
        topic=tp.topic,
        partition=tp.partition,
        offset=offset,
        timestamp=1.0,
        timestamp_type=0,
        headers=None,
        key=None,
        value=b"v",
        checksum=None,
        tp=tp,
        generation_id=generation,
    )


def test_what_is_in_flight_is_committed_before_acknowledgements_are_forgotten(play: Play) -> None:
    """The upstream part of `on_partitions_revoked` drops `_acked`; ours drains and commits before it."""

    async def scenario(world: _World) -> None:
        world.app.topics._acking_topics = {topics.CLICKS}

        async def drained() -> None:
            world.log.append("drained")
            message = _message(CLICKS, 8)
            message.incref()
            faust.Event(world.app, None, b"v", None, message).ack()

        world.consumer.before_revoke = drained
        world.app.on_rebalance_start()
        await world.consumer.on_partitions_revoked({CLICKS})
        assert world.log == ["drained", ("commit", {CLICKS: 9})]
        assert CLICKS not in world.consumer._acked

    play(scenario)


def test_inputs_are_fetched_when_the_app_is_ready_and_changelogs_before(play: Play) -> None:
    async def scenario(world: _World) -> None:
        await world.consumer._getmany({CLICKS, HOT}, 1.0)
        await world.consumer._getmany({CLICKS}, 1.0)
        world.app.is_ready = True
        await world.consumer._getmany({CLICKS, HOT}, 1.0)
        assert world.log == [("fetch", frozenset({HOT})), ("fetch", frozenset({CLICKS}))]

    play(scenario)


def test_a_fetch_becomes_slices_of_this_generation(play: Play) -> None:
    """`_wait_next_records` returns what `_getmany` got for the active partitions; each slice is one message."""

    async def scenario(world: _World) -> None:
        world.app.is_ready = True
        world.consumer._set_active_tps({CLICKS})
        world.fetched = {CLICKS: [SimpleNamespace(offset=at, timestamp=at, value=b"v") for at in range(SLICE + 3)]}
        taken = [(tp, message) async for tp, message in world.consumer.getmany(1.0)]
        assert [(tp, len(message.value), message.offset) for tp, message in taken] == [
            (CLICKS, SLICE, SLICE - 1),
            (CLICKS, 3, SLICE + 2),
        ]
        assert world.app.monitor.tp_end_offsets[CLICKS] == 99
        kept = []
        async for _, message in world.consumer.getmany(1.0):
            kept.append(message)
            world.app.consumer_generation_id += 1
        assert len(kept) == 1, "the rest belongs to an assignment that is over"

    play(scenario)


def test_a_stopped_flow_seeks_back_and_yields_nothing(play: Play) -> None:
    async def scenario(world: _World) -> None:
        world.app.is_ready = True
        world.consumer._set_active_tps({CLICKS})
        world.fetched = {CLICKS: [SimpleNamespace(offset=0, timestamp=0)]}
        world.committed, world.first = {CLICKS: 5}, {IMPRESSIONS: 2}
        sought: list[dict[TP, int]] = []
        world.consumer._thread.seek_wait = world._answer(sought.append)
        reading = world.consumer.getmany(1.0)

        async def stopped(_wanted: set[TP], _timeout: float) -> dict[TP, list[Any]]:
            world.consumer.stop_flow()
            return world.fetched

        world.consumer._thread.getmany = stopped
        assert [found async for found in reading] == []
        assert world.consumer._read_offset[CLICKS] == 5
        assert sought == [{IMPRESSIONS: 2}]

    play(scenario)


def test_what_is_revoked_during_a_seek_does_not_end_the_fetcher(play: Play) -> None:
    async def scenario(world: _World) -> None:
        world.consumer._set_active_tps({HOT})

        async def stopped(_wanted: set[TP], _timeout: float) -> dict[TP, list[Any]]:
            world.consumer.stop_flow()
            return {}

        async def revoked(*_: object) -> dict[TP, int]:
            raise IllegalStateError("No current assignment")

        world.consumer._thread.getmany = stopped
        world.consumer._thread.seek_to_committed = revoked
        assert [found async for found in world.consumer.getmany(1.0)] == []

    play(scenario)


def test_a_dropped_fetch_of_a_changelog_is_read_again(play: Play) -> None:
    """Else its recovery waits for ever for what was dropped."""

    async def scenario(world: _World) -> None:
        world.consumer._set_active_tps({HOT})
        world.fetched = {HOT: [SimpleNamespace(offset=0, timestamp=0)]}
        recovery: Any = world.app.tables.recovery
        recovery.active_offsets[HOT] = 6
        sought: list[dict[TP, int]] = []
        world.consumer._thread.seek_wait = world._answer(sought.append)

        async def sought_meanwhile(_wanted: set[TP], _timeout: float) -> dict[TP, list[Any]]:
            await world.consumer.seek_wait({HOT: 0})
            return world.fetched

        fetch, world.consumer._thread.getmany = world.consumer._thread.getmany, sought_meanwhile
        assert await world.consumer._getmany({HOT}, 1.0) == {}
        assert sought == [{HOT: 0}]
        world.consumer._thread.getmany = fetch
        assert await world.consumer._getmany({HOT}, 1.0) == world.fetched
        assert sought == [{HOT: 0}, {HOT: 7}]

        async def stopped(_wanted: set[TP], _timeout: float) -> dict[TP, list[Any]]:
            world.consumer.stop_flow()
            return world.fetched

        world.committed = {CLICKS: 5, IMPRESSIONS: 2}
        world.consumer._thread.getmany = stopped
        assert [found async for found in world.consumer.getmany(1.0)] == []
        world.consumer._thread.getmany = fetch
        assert await world.consumer._getmany({HOT}, 1.0) == world.fetched
        assert sought[2:] == [{HOT: 7}]

    play(scenario)


def test_an_app_is_ready_when_the_rebalance_that_it_recovered_for_ends() -> None:
    """`rebalancing_count` rises at the start of each rebalance, before partitions are revoked."""

    async def scenario() -> None:
        app = SliceApp("contract-ready", store="memory://", web_enabled=False)
        ready: list[int] = []
        app.on_ready, app.clock = ready.append, lambda: 7.0
        app.ahead = ReadAhead(1)
        app.on_rebalance_start()
        assert (app.rebalancing_count, app.is_ready) == (1, False)
        app.on_assigned()
        app.on_rebalance_end()
        assert (app.is_ready, ready) == (True, [app.consumer_generation_id])
        app.on_rebalance_start()
        assert not app.is_ready
        app.on_rebalance_end()
        assert not app.is_ready, "no tables were recovered for this one"

    asyncio.run(scenario())


def test_a_recovery_that_a_rebalance_has_overtaken_opens_nothing(play: Play) -> None:
    """Upstream reports its end too. The stores are empty again, and the offsets below the ends of the changelogs."""

    async def scenario(world: _World) -> None:
        changelogs = [TP(name, 0) for name in topics.CHANGELOGS]
        recovery = world.app.tables.recovery
        world.consumer._thread.assignment = lambda: {TP(topics.TICKS, 0), CLICKS, *changelogs}
        recovery.active_highwaters.update(dict.fromkeys(changelogs, 9))
        recovery.active_offsets.update({**dict.fromkeys(changelogs, 9), HOT: 8})
        world.app.is_ready = True
        world.worker._on_ready(1)
        assert not world.app.is_ready
        assert not hasattr(world.worker, "_opening")

        recovery.active_offsets.pop(HOT)
        assert not world.worker._is_recovered(), "not begun"
        recovery.active_offsets[HOT] = 9
        assert world.worker._is_recovered()

    play(scenario)


def test_back_pressure_resumes_a_partition_that_was_paused(play: Play) -> None:
    """So its limit is out of the worker's reach, and what is read ahead is bounded in bytes."""

    async def scenario(world: _World) -> None:
        consumer = world.consumer
        consumer._set_active_tps({CLICKS, IMPRESSIONS})
        consumer.pause_partitions({IMPRESSIONS})
        assert consumer._get_active_partitions() == {CLICKS}
        consumer._buffered_partitions.add(IMPRESSIONS)
        consumer.on_buffer_drop(IMPRESSIONS)
        assert consumer._get_active_partitions() == {CLICKS, IMPRESSIONS}
        consumer.pause_partitions({IMPRESSIONS})
        consumer.resume_partitions({IMPRESSIONS})
        assert consumer._get_active_partitions() == {CLICKS, IMPRESSIONS}

    play(scenario)


def test_a_slice_counts_from_the_callback_to_its_acknowledgement(play: Play) -> None:
    """`_drain_messages` passes each message that it does not drop to `callback`; changelogs are not acknowledged."""

    async def scenario(world: _World) -> None:
        app, consumer = world.app, world.consumer
        app.is_ready = True
        app.ahead.open()
        consumer._set_active_tps({CLICKS})
        limit = WorkerSettings().read_ahead_bytes
        for tp in (HOT, CLICKS):
            message = SimpleNamespace(topic=tp.topic, partition=0, tp=tp, serialized_value_size=limit)
            with pytest.raises(KeyError, match=tp.topic):  # the conductor has nobody to give it to
                await consumer.callback(message)
        assert app.ahead.held_bytes == limit
        fetching = asyncio.create_task(consumer._getmany({CLICKS}, 1.0))
        await asyncio.sleep(0)
        assert world.log == []
        app.ahead.give(1)
        await fetching
        assert world.log == [("fetch", frozenset({CLICKS}))]

    play(scenario)


def test_upstream_drops_what_it_has_fetched_for_a_paused_partition() -> None:
    """Its position has moved on by then: a loss, which our `getmany` does not have."""
    source = inspect.getsource(Consumer.getmany)
    assert "or tp in active_partitions" in source
    assert "active_partitions" not in inspect.getsource(SliceConsumer.getmany)


def test_tables_start_empty_and_are_read_from_the_beginning(play: Play) -> None:
    """`on_rebalance` comes before recovery; without a known offset, recovery reads from the first one."""

    async def scenario(world: _World) -> None:
        (hot,) = [table for table in world.app.tables.values() if table.name == "hot"]
        hot.shards[0] = {b"k": b"v"}
        world.app.tables.recovery.active_offsets[HOT] = 17
        world.app.tables.recovery.active_offsets[TP("other", 0)] = 3
        world.app.rebalancing_count = 1
        await hot.on_rebalance({HOT}, set(), {HOT}, 1)
        assert (hot.shards, hot.is_recovering) == ({}, True)
        assert dict(world.app.tables.recovery.active_offsets) == {TP("other", 0): 3}

    play(scenario)
    source = inspect.getsource(Recovery._slurp_changelogs.fun)
    assert "table.apply_changelog_batch(buf)" in source
    assert "if len(buf) >= bufsize:" in source, "a buffer of one slice is applied at once"


def test_a_batch_takes_its_first_record_whatever_its_size() -> None:
    """So the broker, not the batch, refuses a row that is larger than a batch may be."""
    builder = BatchBuilder(1_000, 0)
    assert builder.append(timestamp=None, key=b"k", value=b"v" * 5_000, headers=[]) is not None
    assert builder.append(timestamp=None, key=b"k", value=b"v", headers=[]) is None
    assert builder.record_count() == 1
    builder.close()
    assert builder.append(timestamp=None, key=b"k", value=b"v", headers=[]) is None
