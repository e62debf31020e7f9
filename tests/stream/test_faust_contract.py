"""Pins the upstream faults and private methods that the adapter works around or overrides.

A failure here means that an upgrade has changed what `stream.agents` relies on: read STREAM.md 2.1 before touching
the expectation.
"""

import asyncio
import inspect
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import TypeVar

import faust
import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.app.base import BootStrategy
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from intervaltree import IntervalTree  # type: ignore[import-untyped]  # comes with Faust, without types

from stream.agents import slices
from stream.agents.slices import SliceApp, SliceConsumer, SliceTable, check_versions
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
    monkeypatch.setattr(slices, "PINNED", {"aiokafka": "0.0.1"})
    with pytest.raises(ConfigError, match=r"aiokafka 0\.14\.0 is installed"):
        check_versions()


def test_b1_faust_commits_past_a_message_in_work() -> None:
    upstream = _bookkeeping(driver.Consumer, [2586, 2587, 2588, 2589], committed=2585)
    assert upstream._new_offset(CLICKS) == 2590, "2585 itself was never acknowledged"
    fresh = _bookkeeping(driver.Consumer, [5, 6, 7, 8], committed=None)
    assert fresh._new_offset(CLICKS) == 9, "0 to 4 were never acknowledged"


def test_b1_ours_commits_the_newest_acknowledgement_once() -> None:
    ours = _bookkeeping(SliceConsumer, [511, 1023, 1500], committed=0)
    assert ours._new_offset(CLICKS) == 1501
    assert ours._new_offset(CLICKS) is None
    assert ours._acked_index[CLICKS] == set()


def test_b18_faust_counts_the_last_offset_of_a_slice_twice() -> None:
    async def scenario() -> None:
        upstream = _bookkeeping(driver.Consumer, [511], committed=0)
        await upstream._add_gap(CLICKS, 1, 511)
        assert upstream._new_offset(CLICKS) == 512
        assert upstream._acked[CLICKS] == [511], "the doubled offset stays behind"
        ours = _bookkeeping(SliceConsumer, [511], committed=0)
        await ours._add_gap(CLICKS, 1, 511)
        assert not ours._gap[CLICKS]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (driver.Consumer, "_new_consumer_thread"),
        (driver.Consumer, "_to_message"),
        (driver.Consumer, "on_partitions_revoked"),
        (driver.AIOKafkaConsumerThread, "_create_worker_consumer"),
        (Consumer, "_new_offset"),
        (Consumer, "_add_gap"),
        (Consumer, "getmany"),
        (Consumer, "_getmany"),
        (faust.App, "on_rebalance_start"),
        (faust.App, "on_rebalance_end"),
        (Consumer, "_wait_next_records"),
        (Consumer, "perform_seek"),
        (Consumer, "commit"),
        (Consumer, "_is_changelog_tp"),
        (faust.Table, "apply_changelog_batch"),
        (faust.Table, "on_rebalance"),
        (Recovery, "revoke"),
        (BatchBuilder, "append"),
    ],
)
def test_what_is_overridden_or_called_exists(owner: type, name: str) -> None:
    assert callable(getattr(owner, name))


def test_b15_b19_no_web_server_starts_when_it_is_switched_off() -> None:
    app = faust.App("contract", store="memory://", web_enabled=False)
    assert not BootStrategy(app)._should_enable_web()
    assert faust.App("contract-default", store="memory://").conf.web_enabled, "upstream's default is on"


def test_b16_faust_makes_tasks_per_message() -> None:
    assert "self.wait_first(" in inspect.getsource(Consumer._drain_messages), "per slice, this cost is shared"


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
    app = SliceApp("contract-table", store="memory://", web_enabled=False)
    table = SliceTable(app, name="rows", key_type=bytes, value_type=bytes, partitions=1)
    failures: list[BaseException] = []
    table.shards, table.new_shard, table.on_failure = {}, lambda _partition: {}, failures.append
    table.is_recovering = True
    record = SimpleNamespace(key=b"key", value=b"row")
    message = SimpleNamespace(
        topic="t", partition=0, offset=9, value=[record], generation_id=app.consumer_generation_id
    )
    table.apply_changelog_batch([SimpleNamespace(message=message)])  # type: ignore[list-item]
    assert table.shard(0) == {b"key": b"row"}
    assert failures == []
    message.generation_id += 1
    table.apply_changelog_batch([SimpleNamespace(message=message)])  # type: ignore[list-item]
    assert "older generation" in str(failures[0])
