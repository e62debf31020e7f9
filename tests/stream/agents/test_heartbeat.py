"""The heartbeat: its ticks, its lag and its watchdog, by a clock that the test moves."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from types import SimpleNamespace

import msgspec
import pytest

from stream.agents.assignment import Assignment, Fetched, Input
from stream.agents.commit_barrier import Row
from stream.agents.heartbeat import Heartbeat
from stream.agents.log_check import LogFingerprint, LostRecordsError
from stream.agents.metrics import JoinMetrics
from stream.errors import BusError
from stream.join.settings import JoinSettings
from stream.schemas import topics
from stream.schemas.events import Tick

CLICKS: Input = (topics.CLICKS, 3)
START_S = 5.0


class _World:
    """A heartbeat, its clock and its broker; nothing connects."""

    crashed = False
    num_recovered = 0

    def __init__(self, *, end: int = 1_000) -> None:
        self.now_s = START_S
        self.end = end
        self.high: int | None = None
        self.consumed: dict[Input, Fetched] = {}
        self.is_away = False
        self.failures: list[str] = []
        self.ticks: list[Tick] = []
        self.num_checks = 0
        self.lost: Exception | None = None
        self.fence = SimpleNamespace(num_failures=0)
        self.metrics = JoinMetrics()
        self.beats = 0
        self.work: Callable[[], None] = lambda: None
        self.cost_s: Callable[[], float] = lambda: 0.0
        self.assignment = Assignment(
            7,
            {3: ({}, {}, {})},
            {CLICKS: 7},
            settings=JoinSettings(),
            num_partitions=12,
            check_log=self.check_log,
        )
        self.heartbeat = Heartbeat(
            self,
            self.fence,
            self.send,
            metrics=self.metrics,
            on_failure=lambda error: self.failures.append(str(error)),
            hot_max_bytes=1 << 20,
            ticks_by="one",
            watchdog_s=60.0,
            timeout_s=30.0,
            clock=lambda: self.now_s,
            sleep=self.sleep,
        )

    async def end_offsets(self, partitions: Sequence[int]) -> Mapping[Input, int]:
        if self.is_away:
            raise BusError("away")
        return {(topics.CLICKS, number): self.end for number in partitions}

    async def high_watermarks(self, partitions: Sequence[int]) -> Mapping[Input, int]:
        return {(topics.CLICKS, number): self.end if self.high is None else self.high for number in partitions}

    def fetched(self) -> Mapping[Input, Fetched]:
        return self.consumed

    async def check_log(self, _fingerprints: Mapping[int, LogFingerprint], _starts: Mapping[Input, int]) -> None:
        self.num_checks += 1
        if self.lost is not None:
            raise self.lost

    async def send(self, topic: str, partition: int, rows: Iterable[Row]) -> None:
        assert (topic, partition) == (topics.TICKS, 3)
        self.ticks += [msgspec.json.decode(value or b"", type=Tick) for _, value, _ in rows]
        self.now_s += self.cost_s()

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s
        self.work()
        self.beats += 1
        if self.beats > 100:
            raise asyncio.CancelledError

    async def open(self) -> None:
        assert await self.assignment.open(lambda: self.end_offsets([3]), self.fence.num_failures)
        self.heartbeat.begin(self.assignment)

    def lag(self) -> float | None:
        return self.metrics.registry.get_sample_value(
            "shelfwise_join_lag_offsets", {"topic": topics.CLICKS, "partition": "3"}
        )


def test_a_recovery_that_is_over_does_not_stand_still() -> None:
    """A heartbeat may watch the recovery between its end and the opening; the opening must forget that."""

    async def scenario() -> None:
        world = _World(end=7)
        await world.heartbeat.beat()
        await world.open()
        world.is_away = True
        world.now_s = START_S + 60.0
        await world.heartbeat.beat()
        assert world.failures == []
        world.now_s = START_S + 61.0
        await world.heartbeat.beat()
        assert world.failures == ["the broker has not answered for 61 s"]

    asyncio.run(scenario())


def test_a_recovery_that_reads_nothing_stands_still() -> None:
    async def scenario() -> None:
        world = _World()
        await world.heartbeat.beat()
        world.now_s, world.num_recovered = START_S + 61.0, 1
        await world.heartbeat.beat()
        assert world.failures == []
        world.now_s = START_S + 122.0
        await world.heartbeat.beat()
        assert world.failures == ["recovery has lag but has not moved from offset 1 for 61 s"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("moves", "end"), [(True, 1_000), (False, 1_000), (False, 7)], ids=["moving", "still", "nothing to read"]
)
def test_offsets_that_move_while_heartbeats_fail_are_no_standstill(*, moves: bool, end: int) -> None:
    """The broker may be away at every heartbeat, and back whenever micro-batches are written."""

    async def scenario() -> None:
        world = _World(end=end)
        await world.open()
        world.is_away = True
        offsets = count(7)
        if moves:
            world.work = lambda: world.assignment.acknowledge(*CLICKS, next(offsets))
        with pytest.raises(asyncio.CancelledError):
            await world.heartbeat.run()
        if moves:
            assert world.failures == []
        else:
            words = "has not moved from offset 7" if end > 7 else "the broker has not answered"
            assert any(words in failure for failure in world.failures)

    asyncio.run(scenario())


def test_heartbeats_are_a_second_apart_unless_one_takes_longer() -> None:
    async def scenario() -> None:
        world = _World()
        await world.open()
        beat_at: list[float] = []

        def cost_s() -> float:
            beat_at.append(world.now_s)
            return 2.5 if len(beat_at) == 3 else 0.25

        world.cost_s = cost_s
        with pytest.raises(asyncio.CancelledError):
            await world.heartbeat.run()
        assert [at - START_S for at in beat_at[:5]] == [1.0, 2.0, 3.0, 5.5, 6.5]

    asyncio.run(scenario())


def test_ticks_carry_positions_and_ends_and_the_lag_is_measured() -> None:
    async def scenario() -> None:
        world = _World()
        await world.heartbeat.beat()
        assert world.ticks == [], "nothing is owned yet"
        await world.open()
        await world.heartbeat.beat()
        world.assignment.acknowledge(*CLICKS, 99)
        await world.heartbeat.beat()
        assert [(tick.partition, tick.seq, tick.worker) for tick in world.ticks] == [(3, 1, "one"), (3, 2, "one")]
        assert [tick.pos[topics.CLICKS] for tick in world.ticks] == [7, 100]
        assert [tick.hw[topics.CLICKS] for tick in world.ticks] == [1_000, 1_000]
        assert world.lag() == 900
        world.assignment.close()
        await world.heartbeat.beat()
        assert len(world.ticks) == 2, "a closed assignment gets no ticks"
        world.heartbeat.end()
        assert world.lag() is None, "the next owner reports it"

    asyncio.run(scenario())


def test_a_marker_at_the_end_is_no_lag_and_the_ticks_say_so() -> None:
    """The position of the consumer passes a commit marker, an acknowledgement cannot."""

    async def scenario() -> None:
        world = _World(end=10)
        await world.open()
        world.consumed = {CLICKS: Fetched(9, 10)}
        await world.heartbeat.beat()
        assert world.lag() == 3, "two records and a marker"
        world.assignment.acknowledge(*CLICKS, 8)
        await world.heartbeat.beat()
        assert world.lag() == 0
        assert [tick.tail for tick in world.ticks] == [{topics.CLICKS: 9}] * 2, "a fact about the log"
        world.now_s += 3_600.0
        await world.heartbeat.beat()
        assert world.failures == []

    asyncio.run(scenario())


def test_a_consumer_that_stands_before_a_marker_is_a_standstill() -> None:
    async def scenario() -> None:
        world = _World(end=10)
        await world.open()
        world.assignment.acknowledge(*CLICKS, 8)
        world.consumed = {CLICKS: Fetched(9, 9)}
        await world.heartbeat.beat()
        world.now_s += 61.0
        await world.heartbeat.beat()
        assert "has not moved from offset 9" in world.failures[0]

    asyncio.run(scenario())


def test_an_open_transaction_is_no_lag_and_no_idle_topic() -> None:
    """Its records cannot be read yet, and are older than their commit: the ticks state the end of the whole log."""

    async def scenario() -> None:
        world = _World(end=9)
        world.high = 12
        await world.open()
        world.assignment.acknowledge(*CLICKS, 8)
        world.consumed = {CLICKS: Fetched(9, 9)}
        await world.heartbeat.beat()
        assert world.lag() == 0
        assert [(tick.hw[topics.CLICKS], tick.tail) for tick in world.ticks] == [(12, {})]
        world.now_s += 3_600.0
        await world.heartbeat.beat()
        assert world.failures == []

    asyncio.run(scenario())


def test_the_log_is_checked_again_after_the_broker_was_away() -> None:
    async def scenario() -> None:
        world = _World()
        await world.open()
        for _ in range(3):
            await world.heartbeat.beat()
        assert world.num_checks == 1
        world.fence.num_failures = 1
        await world.heartbeat.beat()
        await world.heartbeat.beat()
        assert world.num_checks == 2
        world.fence.num_failures, world.lost = 2, LostRecordsError("clicks-3 has lost records")
        await world.heartbeat.beat()
        assert world.failures == ["clicks-3 has lost records"]

    asyncio.run(scenario())


def test_a_crash_of_faust_is_a_failure() -> None:
    async def scenario() -> None:
        world = _World()
        world.crashed = True
        await world.heartbeat.beat()
        assert world.failures == ["Faust has crashed"]

    asyncio.run(scenario())
