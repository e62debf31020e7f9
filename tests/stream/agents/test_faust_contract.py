"""The faults of Faust that the worker avoids, numbered as in docs/adr/0010-faust-in-micro-batches.md.

A failure here means that an upgrade has changed the behaviour that `stream.agents` relies on: read the decision record
before the expectation. test_faust_methods.py has the behaviour of the overrides.
"""

import asyncio
import gc
import inspect
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import Any, TypeVar

import faust
import pytest
from faust import streams
from faust.app.base import BootStrategy
from faust.exceptions import ValueDecodeError
from faust.tables.recovery import Recovery
from faust.transport.conductor import ConductorCompiler
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.transport.producer import ProducerBuffer
from faust.types import TP
from faust.types.tuples import ConsumerMessage, FutureMessage, PendingMessage
from intervaltree import IntervalTree  # type: ignore[import-untyped]  # comes with Faust, without types

from stream.agents import upstream
from stream.agents.faust_app import MicroBatchApp
from stream.agents.faust_consumer import MicroBatchConsumer
from stream.agents.faust_table import MicroBatchTable
from stream.agents.upstream import check_versions
from stream.errors import ConfigError

CLICKS = TP("clicks", 0)
Kind = TypeVar("Kind", bound=driver.Consumer)


def _bookkeeping(kind: type[Kind], acked: list[int], committed: int | None) -> Kind:
    """A consumer that was never started, with acknowledgements of one partition."""
    consumer = kind.__new__(kind)
    consumer._acked = defaultdict(list, {CLICKS: list(acked)})
    consumer._acked_index = defaultdict(set, {CLICKS: set(acked)})
    consumer._committed_offset = defaultdict(lambda: None, {CLICKS: committed})
    consumer._gap = defaultdict(IntervalTree)
    return consumer


def test_the_pinned_releases_are_installed() -> None:
    check_versions()


def test_other_releases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "PINNED", {"aiokafka": "0.0.1"})
    with pytest.raises(ConfigError, match=r"aiokafka 0\.14\.0 is installed"):
        check_versions()


def test_b1_faust_commits_past_a_message_in_work() -> None:
    upstream = _bookkeeping(driver.Consumer, [2586, 2587, 2588, 2589], committed=2585)
    assert upstream._new_offset(CLICKS) == 2590, "2585 itself was never acknowledged"
    fresh = _bookkeeping(driver.Consumer, [5, 6, 7, 8], committed=None)
    assert fresh._new_offset(CLICKS) == 9, "0 to 4 were never acknowledged"


def test_b1_ours_commits_the_newest_acknowledgement_once() -> None:
    ours = _bookkeeping(MicroBatchConsumer, [511, 1023, 1500], committed=0)
    assert ours._new_offset(CLICKS) == 1501
    assert ours._new_offset(CLICKS) is None
    assert ours._acked_index[CLICKS] == set()


class _Doubtful:
    """A stream of one event in an app that was never started, and whether that event is acknowledged."""

    def __init__(self) -> None:
        # Parts of it are replaced by stand-ins.
        self.app: Any = faust.App("contract-agent", store="memory://", web_enabled=False)
        self.acked: list[int] = []
        consumer: Any = SimpleNamespace(ack=self._ack, _unacked_messages=set(), unacked=set(), _last_batch={})
        self.app.consumer = consumer
        self.app.flow_control.resume()
        self.message = ConsumerMessage(
            *("clicks", 0, 5, 0.0, 0, None, None, b"v", None), tp=CLICKS, generation_id=self.app.consumer_generation_id
        )
        self.message.incref()
        self.event = faust.Event(self.app, None, b"v", None, self.message)

    def _ack(self, message: ConsumerMessage) -> bool:
        self.acked.append(message.offset)
        return True

    @property
    def is_acked(self) -> bool:
        # The compiled iterator marks the message itself, the pure one goes by the consumer.
        return self.message.acked or bool(self.acked)

    async def fail(self, *, noack: bool, cancelled: bool) -> None:
        """Run an agent's body over the event, and have it raise or be cancelled in the middle."""
        channel: Any = self.app.channel(value_type=bytes)
        stream = channel.stream().noack() if noack else channel.stream()
        reached = asyncio.Event()

        async def body() -> None:
            async for event in stream.events():
                assert event is self.event
                reached.set()
                if cancelled:
                    await asyncio.Event().wait()
                raise RuntimeError("in the body")

        task = asyncio.get_running_loop().create_task(body())
        while not channel._subscribers:
            await asyncio.sleep(0)
        await channel.put(self.event)
        await asyncio.wait_for(reached.wait(), 10)
        if cancelled:
            task.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else RuntimeError):
            await task
        del task
        # Iterators that were left behind are finished by the loop.
        gc.collect()
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.mark.slow
@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_b2_an_exception_or_a_cancellation_in_the_body_acknowledges_the_event(
    compiled: bool, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2: with automatic acknowledgements a failed event counts as done; `noack()`, which we use, leaves it open."""
    assert vars(streams)["_CStreamIterator"] is not None
    if not compiled:
        monkeypatch.setattr(streams, "_CStreamIterator", None)

    async def scenario(*, noack: bool) -> bool:
        doubtful = _Doubtful()
        await doubtful.fail(noack=noack, cancelled=cancelled)
        return doubtful.is_acked

    assert asyncio.run(scenario(noack=False)), "upstream acknowledges what failed"
    assert not asyncio.run(scenario(noack=True)), "ours is read again"


def test_b3_what_cannot_be_decoded_is_acknowledged() -> None:
    """B3: a value that Faust cannot decode counts as done, and the agent gets the exception; raw bytes never fail."""

    async def deliver(value_type: type, serializer: str) -> tuple[bool, list[object]]:
        doubtful = _Doubtful()
        app = doubtful.app
        app.consumer.on_buffer_full = app.consumer.on_buffer_drop = lambda _tp: None
        app.producer = SimpleNamespace(buffer=ProducerBuffer())
        app.producer.buffer.app = app
        topic = app.topic("clicks", value_type=value_type, value_serializer=serializer, key_serializer="raw").clone(
            is_iterator=True
        )
        message = doubtful.message
        message.refcount, message.value = 0, b'{"broken'
        await ConductorCompiler().build(app.topics, CLICKS, {topic})(message)
        got: list[object] = []
        try:
            got.append((await asyncio.wait_for(topic.queue.get(), 10)).value)
        except ValueDecodeError as error:
            got.append(error)
        return doubtful.is_acked, got

    is_acked, (error,) = asyncio.run(deliver(dict, "json"))
    assert is_acked
    assert isinstance(error, ValueDecodeError)
    assert asyncio.run(deliver(bytes, "raw")) == (False, [b'{"broken'])


def test_b4_the_flush_before_a_commit_gives_up() -> None:
    """B4: after 100 ms without progress `flush` returns as if nothing were left, and the commit goes ahead."""

    class Stalled(ProducerBuffer):
        async def _send_pending(self, fut: object) -> None:
            await asyncio.Event().wait()

    async def scenario() -> int:
        buffer = Stalled()
        buffer.app = faust.App("contract-buffer", store="memory://", web_enabled=False)
        topic = buffer.app.topic("changelog", value_type=bytes)
        for _ in range(50):
            buffer.put(FutureMessage(PendingMessage(topic, b"k", b"v", 0, None, None, "raw", "raw", None)))
        async with buffer:
            await asyncio.wait_for(buffer.flush(), 30)
            given_up = buffer.size
            while not buffer.pending.empty():
                buffer.pending.get_nowait()
            return given_up

    assert asyncio.run(scenario()) == 49, "one message is being sent, 49 were given up"


def test_b5_a_failed_background_publish_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """B5: only the dropped future knows that a record was not written."""

    async def scenario() -> None:
        app = faust.App("contract-publish", store="memory://", web_enabled=False)
        topic: Any = app.topic("outputs", value_type=bytes)
        pending = FutureMessage(PendingMessage(topic, b"k", b"v", 0, None, None, "raw", "raw", None))
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(ConnectionError("the broker is gone"))
        topic._on_published(failed, pending, SimpleNamespace(), None)
        assert isinstance(pending.exception(), ConnectionError)
        assert not app.crashed
        assert app._crash_reason is None

    asyncio.run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_b18_faust_counts_the_last_offset_of_a_micro_batch_twice() -> None:
    async def scenario() -> None:
        upstream = _bookkeeping(driver.Consumer, [511], committed=0)
        await upstream._add_gap(CLICKS, 1, 511)
        assert upstream._new_offset(CLICKS) == 512
        assert upstream._acked[CLICKS] == [511], "the doubled offset stays behind"
        ours = _bookkeeping(MicroBatchConsumer, [511], committed=0)
        await ours._add_gap(CLICKS, 1, 511)
        assert not ours._gap[CLICKS]

    asyncio.run(scenario())


def test_b15_b19_no_web_server_starts_when_it_is_switched_off() -> None:
    app = faust.App("contract", store="memory://", web_enabled=False)
    assert not BootStrategy(app)._should_enable_web()
    assert faust.App("contract-default", store="memory://").conf.web_enabled, "upstream's default is on"


def test_b16_faust_makes_tasks_per_message() -> None:
    assert "self.wait_first(" in inspect.getsource(Consumer._drain_messages), "per micro-batch, this cost is shared"


def test_b17_recovery_logs_and_forgets_exceptions() -> None:
    source = inspect.getsource(Recovery._slurp_changelogs.fun)
    assert "except Exception as ex" in source
    assert "Error in recovery" in source


def test_b17_recovery_starts_where_the_offset_it_knows_says() -> None:
    recovery = Recovery.__new__(Recovery)
    recovery.standby_offsets, recovery.standby_highwaters = Counter({CLICKS: 1}), Counter({CLICKS: 1})
    recovery.active_offsets, recovery.active_highwaters = Counter({CLICKS: 7}), Counter()
    recovery.revoke(CLICKS)
    assert not recovery.active_offsets, "a forgotten offset makes the next recovery read from the beginning"


def test_b14_resuming_the_flow_empties_the_agents_queues() -> None:
    async def scenario() -> None:
        app = faust.App("contract-flow", store="memory://", web_enabled=False)
        queue = app.FlowControlQueue(maxsize=8, clear_on_resume=True)
        app.flow_control.resume()
        queue.put_nowait("fetched between the seek and the resume")
        app.flow_control.suspend()
        app.flow_control.resume()
        assert queue.empty(), "so inputs must not be fetched before the app is ready"

    asyncio.run(scenario())


def test_b14_inputs_are_resumed_before_the_flow() -> None:
    source = inspect.getsource(Recovery.on_recovery_completed)
    assert source.index("resume_partitions") < source.index("perform_seek") < source.index("flow_control.resume")
    assert source.index("flow_control.resume") < source.index("on_rebalance_end")


def test_a_table_failure_in_recovery_is_reported() -> None:
    app = MicroBatchApp("contract-table", store="memory://", web_enabled=False)
    table = MicroBatchTable(app, name="rows", key_type=bytes, value_type=bytes, partitions=1)
    failures: list[BaseException] = []
    table.stores, table.new_store, table.on_failure = {}, lambda _partition: {}, failures.append
    table.is_recovering = True
    record = SimpleNamespace(key=b"key", value=b"row")
    message = SimpleNamespace(
        topic="t", partition=0, offset=9, value=[record], generation_id=app.consumer_generation_id
    )
    table.apply_changelog_batch([SimpleNamespace(message=message)])  # type: ignore[list-item]
    assert table.store(0) == {b"key": b"row"}
    assert failures == []
    message.generation_id += 1
    table.apply_changelog_batch([SimpleNamespace(message=message)])  # type: ignore[list-item]
    assert "older generation" in str(failures[0])
