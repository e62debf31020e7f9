"""Behaviour of the worker's overrides of Faust and aiokafka, with a stand-in for the thread that talks to the broker.

A failure after an upgrade means that a private method has changed: compare the modules that
`stream/agents/upstream.py` names with the new source before the expectation.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, conn
from aiokafka.consumer import consumer, fetcher
from aiokafka.errors import IllegalStateError
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from stream.agents import application, upstream
from stream.agents.application import Hooks
from stream.agents.assignment import Fetched
from stream.agents.backpressure import ReadAheadBudget
from stream.agents.faust_consumer import BATCH_RECORDS, MicroBatchConsumer
from stream.agents.fencing import MembershipFence
from stream.agents.fetch_thread import FETCH_BYTES, FETCH_LEAST_BYTES, FETCH_WAIT_MS
from stream.agents.settings import WorkerSettings
from stream.broker.settings import Broker
from stream.schemas import topics

CLICKS, IMPRESSIONS = TP(topics.CLICKS, 0), TP(topics.IMPRESSIONS, 0)
HOT = TP(topics.HOT_CHANGELOG, 0)


class _World:
    """The worker's own app and consumer, with a stand-in for the thread that would speak to the broker."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # `install` replaces them for the whole process.
        for owner, name in (
            (driver.Transport, "Consumer"),
            (fetcher, "PartitionRecords"),
            (fetcher, "MemoryRecords"),
            (conn, "AIOKafkaConnection"),
            (consumer, "GroupCoordinator"),
        ):
            monkeypatch.setattr(owner, name, getattr(owner, name))
        self.log: list[object] = []
        self.ready: list[int] = []
        self.drained: Callable[[], None] = lambda: None
        upstream.install(MembershipFence(10.0, lambda: None), self._before_revoke)
        self.app: Any = application.build(
            Broker(bootstrap="127.0.0.1:1"),
            WorkerSettings(instance="one"),
            num_partitions=1,
            session_s=10.0,
            folder=folder,
            read_ahead=ReadAheadBudget(WorkerSettings().read_ahead_bytes),
            clock=lambda: 7.0,
            hooks=Hooks(
                consume=self._consume,
                on_ready=self.ready.append,
                on_failure=self.log.append,
                new_warm_store=lambda _partition: {},
            ),
        )
        self.committed: dict[TP, int | None] = {}
        self.first: dict[TP, int] = {}
        self.fetched: dict[TP, list[Any]] = {}
        self.positions: dict[TP, int] = {}
        made: Any = self.app.consumer
        self.consumer: Any = made
        self.thread = made._thread
        made._thread = SimpleNamespace(
            assignment=lambda: {CLICKS, IMPRESSIONS, HOT},
            seek_to_committed=self._answer(lambda: dict(self.committed)),
            earliest_offsets=self._answer(lambda *tps: {tp: self.first[tp] for tp in tps}),
            commit=self._answer(self._commit),
            getmany=self._answer(self._fetch),
            highwater=lambda _tp: 99,
            position_of=self._position,
        )
        made.flow_active = True

    async def _before_revoke(self) -> None:
        self.drained()

    async def _consume(self, _stream: object) -> None:
        """Take nothing: no agent is started."""

    def _answer(self, function: Callable[..., object]) -> Callable[..., Awaitable[object]]:
        async def answer(*arguments: object) -> object:
            return function(*arguments)

        return answer

    def _position(self, tp: TP) -> int | None:
        return self.positions.get(tp)

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
        assert isinstance(world.consumer, MicroBatchConsumer)
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
        assert (upstream._isolation_level, ours._isolation_level) == ("read_uncommitted", "read_committed")
        for made in (upstream, ours):
            await made.stop()

    play(scenario)
    for name in ("fetch_max_wait_ms", "fetch_min_bytes", "fetch_max_bytes", "isolation_level"):
        assert f"{name}=self._{name}" in inspect.getsource(AIOKafkaConsumer.start)


def test_the_fetcher_looks_its_record_class_up_when_it_fetches() -> None:
    assert "PartitionRecords(" in inspect.getsource(fetcher.Fetcher)
    assert fetcher.Fetcher._proc_fetch_request.__globals__ is vars(fetcher)


def test_seeking_goes_to_commits_and_to_the_beginning_of_the_others(play: Play) -> None:
    """`_read_offset` holds the commits after the upstream part, None where there is none; 0 is a commit.

    Upstream leaves the others where they are, which is past the records that were fetched and dropped.
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


def test_acknowledged_micro_batches_are_committed_up_to_the_newest(play: Play) -> None:
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

        def drained() -> None:
            world.log.append("drained")
            message = _message(CLICKS, 8)
            message.incref()
            faust.Event(world.app, None, b"v", None, message).ack()

        world.drained = drained
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


def test_a_fetch_becomes_micro_batches_of_this_generation(play: Play) -> None:
    """`_wait_next_records` returns the records of `_getmany`; each micro-batch is one message."""

    async def scenario(world: _World) -> None:
        world.app.is_ready = True
        world.consumer._set_active_tps({CLICKS})
        world.fetched = {
            CLICKS: [SimpleNamespace(offset=at, timestamp=at, value=b"v") for at in range(BATCH_RECORDS + 3)]
        }
        taken = [(tp, message) async for tp, message in world.consumer.getmany(1.0)]
        assert [(tp, len(message.value), message.offset) for tp, message in taken] == [
            (CLICKS, BATCH_RECORDS, BATCH_RECORDS - 1),
            (CLICKS, 3, BATCH_RECORDS + 2),
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
    """Otherwise its recovery waits for ever for the dropped records."""

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


def test_an_app_is_ready_when_the_rebalance_that_it_recovered_for_ends(play: Play) -> None:
    """`rebalancing_count` rises at the start of each rebalance, before partitions are revoked."""

    async def scenario(world: _World) -> None:
        app = world.app
        world.consumer._thread.assignment = lambda: {CLICKS}
        app.on_rebalance_start()
        assert (app.rebalancing_count, app.is_ready) == (1, False)
        app.on_assigned()
        assert app.assigned_s == 7.0
        app.on_rebalance_end()
        assert (app.is_ready, world.ready) == (True, [app.consumer_generation_id])
        app.on_rebalance_start()
        assert not app.is_ready
        app.on_rebalance_end()
        assert not app.is_ready, "no tables were recovered for this one"

    play(scenario)


def test_a_recovery_that_a_rebalance_has_overtaken_opens_nothing(play: Play) -> None:
    """Upstream reports its end too. The stores are empty again, and the offsets below the ends of the changelogs."""

    async def scenario(world: _World) -> None:
        app = world.app
        changelogs = [TP(name, 0) for name in topics.CHANGELOGS]
        recovery = app.recovery
        world.consumer._thread.assignment = lambda: {TP(topics.TICKS, 0), CLICKS, *changelogs}
        assert app.owned_partitions() == [0]
        recovery.active_highwaters.update(dict.fromkeys(changelogs, 9))
        recovery.active_offsets.update({**dict.fromkeys(changelogs, 9), HOT: 8})
        for table in app.state_tables:
            table.is_recovering = True
        app.on_rebalance_start()
        app.on_assigned()
        app.on_rebalance_end()
        assert (app.is_ready, world.ready) == (False, [])

        recovery.active_offsets.pop(HOT)
        assert not app.is_recovered(), "not begun"
        recovery.active_offsets[HOT] = 9
        assert app.is_recovered()
        assert all(table.is_recovering for table in app.state_tables)
        app.on_rebalance_end()
        assert (app.is_ready, len(world.ready)) == (True, 1)
        assert not any(table.is_recovering for table in app.state_tables)

    play(scenario)


def test_back_pressure_resumes_a_partition_that_was_paused(play: Play) -> None:
    """The worker therefore does not use that limit, and bounds the bytes that are read ahead."""

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


def test_a_micro_batch_counts_from_the_callback_to_its_acknowledgement(play: Play) -> None:
    """`_drain_messages` passes each message that it does not drop to `callback`; changelogs are not acknowledged."""

    async def scenario(world: _World) -> None:
        app, consumer = world.app, world.consumer
        app.is_ready = True
        app.read_ahead.open()
        consumer._set_active_tps({CLICKS})
        limit = WorkerSettings().read_ahead_bytes
        for tp in (HOT, CLICKS):
            message = SimpleNamespace(topic=tp.topic, partition=0, tp=tp, serialized_value_size=limit)
            with pytest.raises(KeyError, match=tp.topic):  # the conductor has no channel for it
                await consumer.callback(message)
        assert app.read_ahead.held_bytes == limit
        fetching = asyncio.create_task(consumer._getmany({CLICKS}, 1.0))
        await asyncio.sleep(0)
        assert world.log == []
        app.read_ahead.release(1)
        await fetching
        assert world.log == [("fetch", frozenset({CLICKS}))]

    play(scenario)


def test_upstream_drops_the_fetched_records_of_a_paused_partition() -> None:
    """Its position has moved on by then: a loss, which our `getmany` does not have."""
    source = inspect.getsource(Consumer.getmany)
    assert "or tp in active_partitions" in source
    assert "active_partitions" not in inspect.getsource(MicroBatchConsumer.getmany)


def test_tables_start_empty_and_are_read_from_the_beginning(play: Play) -> None:
    """`on_rebalance` comes before recovery; without a known offset, recovery reads from the first one."""

    async def scenario(world: _World) -> None:
        (hot,) = [table for table in world.app.tables.values() if table.name == "hot"]
        hot.stores[0] = {b"k": b"v"}
        world.app.tables.recovery.active_offsets[HOT] = 17
        world.app.tables.recovery.active_offsets[TP("other", 0)] = 3
        world.app.rebalancing_count = 1
        await hot.on_rebalance({HOT}, set(), {HOT}, 1)
        assert (hot.stores, hot.is_recovering) == ({}, True)
        assert dict(world.app.tables.recovery.active_offsets) == {TP("other", 0): 3}

    play(scenario)
    source = inspect.getsource(Recovery._slurp_changelogs.fun)
    assert "table.apply_changelog_batch(buf)" in source
    assert "if len(buf) >= bufsize:" in source, "a buffer of one micro-batch is applied at once"


def test_a_batch_takes_its_first_record_whatever_its_size() -> None:
    """So the broker, not the batch, refuses a row that is larger than a batch may be."""
    builder = BatchBuilder(1_000, 0)
    assert builder.append(timestamp=None, key=b"k", value=b"v" * 5_000, headers=[]) is not None
    assert builder.append(timestamp=None, key=b"k", value=b"v", headers=[]) is None
    assert builder.record_count() == 1
    builder.close()
    assert builder.append(timestamp=None, key=b"k", value=b"v", headers=[]) is None


def test_a_position_moves_past_markers_that_no_record_has(play: Play) -> None:
    """A fetch of nothing but a commit marker returns no record, and moves the position."""

    async def scenario(world: _World) -> None:
        world.app.is_ready = True
        world.committed, world.first = {CLICKS: 4}, {IMPRESSIONS: 0}
        world.consumer._read_offset.update({CLICKS: 4, IMPRESSIONS: None})
        world.consumer.fetched = {CLICKS: Fetched(4, 4), IMPRESSIONS: Fetched(0, 0)}
        world.fetched, world.positions = {CLICKS: [SimpleNamespace(offset=5)]}, {CLICKS: 6, IMPRESSIONS: 1}
        await world.consumer._getmany({CLICKS, IMPRESSIONS}, 1.0)
        assert world.app.fetched() == {CLICKS: Fetched(6, 6), IMPRESSIONS: Fetched(0, 1)}
        world.fetched, world.positions = {}, {CLICKS: 7, IMPRESSIONS: 1}
        await world.consumer._getmany({CLICKS, IMPRESSIONS}, 1.0)
        assert world.app.fetched() == {CLICKS: Fetched(6, 7), IMPRESSIONS: Fetched(0, 1)}

    play(scenario)


def test_faust_looks_for_no_standstill(play: Play) -> None:
    """It takes changelogs that are not fetched after their recovery for one, and logs an error for each, for ever."""

    async def scenario(world: _World) -> None:
        looked: list[TP] = []
        world.consumer._thread.verify_event_path = lambda _now, tp: looked.append(tp)
        driver.Consumer.verify_event_path(world.consumer, 1_000.0, HOT)
        assert looked == [HOT], "the check of Faust"
        await world.consumer.verify_all_partitions_active()
        assert looked == [HOT]

    play(scenario)
