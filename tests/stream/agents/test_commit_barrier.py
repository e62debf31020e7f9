"""The order of writes at the commit barrier, and the moment at which a micro-batch is acknowledged."""

import asyncio
from collections.abc import Iterable
from functools import partial

from stream.agents.commit_barrier import CommitBarrier, Row
from stream.join.output import MicroBatchOutput
from stream.schemas import topics


class _Log:
    """Broker that confirms when the test lets it, and records the order of writes."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.confirm = asyncio.Event()
        self.fails = False

    async def send(self, topic: str, partition: int, rows: Iterable[Row]) -> None:
        self.writes.append(f"{topic}-{partition}:{len(list(rows))}")
        await self.confirm.wait()
        if self.fails:
            raise ConnectionError("gone")


def _output(number: int) -> MicroBatchOutput:
    key = b"%d" % number
    return MicroBatchOutput(hot={key: b"row"}, progress={b"0": key}, sessions=[(key, b"session")])


def _barrier(
    log: _Log, failures: list[BaseException], confirm_s: float = 30.0, max_in_flight: int = 4
) -> CommitBarrier:
    return CommitBarrier(log.send, max_in_flight=max_in_flight, confirm_s=confirm_s, on_failure=failures.append)


def test_progress_follows_the_rows_and_the_acknowledgement_follows_progress() -> None:
    async def scenario() -> None:
        log, acknowledged = _Log(), list[int]()
        barrier = _barrier(log, [])
        barrier.submit(0, _output(1), lambda: acknowledged.append(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert set(log.writes) == {f"{topics.SESSIONS}-0:1", f"{topics.HOT_CHANGELOG}-0:1"}
        assert acknowledged == []
        log.confirm.set()
        assert await barrier.drain(5)
        assert log.writes[2:] == [f"{topics.PROGRESS_CHANGELOG}-0:1"]
        assert acknowledged == [1]

    asyncio.run(scenario())


def test_micro_batches_that_wait_are_written_together_and_acknowledged_in_order() -> None:
    async def scenario() -> None:
        log, acknowledged = _Log(), list[int]()
        barrier = _barrier(log, [])
        for number in (1, 2, 3):
            barrier.submit(0, _output(number), partial(acknowledged.append, number))
            await asyncio.sleep(0)
        log.confirm.set()
        assert await barrier.drain(5)
        assert acknowledged == [1, 2, 3]
        assert f"{topics.SESSIONS}-0:2" in log.writes
        assert log.writes.count(f"{topics.PROGRESS_CHANGELOG}-0:1") == 2

    asyncio.run(scenario())


def test_a_failed_write_acknowledges_nothing_and_is_reported() -> None:
    async def scenario() -> None:
        log, acknowledged, failures = _Log(), list[int](), list[BaseException]()
        barrier = _barrier(log, failures)
        log.fails = True
        log.confirm.set()
        barrier.submit(3, _output(1), lambda: acknowledged.append(1))
        assert not await barrier.drain(5)
        barrier.submit(3, _output(2), lambda: acknowledged.append(2))
        await asyncio.sleep(0)
        assert acknowledged == []
        assert [str(failure) for failure in failures] == ["partition 3: ConnectionError('gone')"]
        await barrier.wait_for_room()

    asyncio.run(scenario())


def test_a_write_without_an_answer_fails_after_its_time() -> None:
    async def scenario() -> None:
        log, failures = _Log(), list[BaseException]()
        barrier = _barrier(log, failures, confirm_s=0.01)
        barrier.submit(0, _output(1), lambda: None)
        assert not await barrier.drain(5)
        assert "no confirmation within" in str(failures[0])

    asyncio.run(scenario())


def test_a_full_barrier_has_no_room_until_something_is_confirmed() -> None:
    async def scenario() -> None:
        log = _Log()
        barrier = _barrier(log, [], max_in_flight=1)
        barrier.submit(0, _output(1), lambda: None)
        waiting = asyncio.create_task(barrier.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        log.confirm.set()
        await waiting

    asyncio.run(scenario())
