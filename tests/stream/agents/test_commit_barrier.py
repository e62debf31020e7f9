"""The gate: what is written before what, and when a slice may be acknowledged."""

import asyncio
from collections.abc import Iterable
from functools import partial

from stream.agents.commit_barrier import Gate, Row
from stream.join import MicroBatchOutput
from stream.schemas import topics


class _Log:
    """A broker that confirms when it is told to, and notes the order of writes."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.confirm = asyncio.Event()
        self.fails = False

    async def send(self, topic: str, partition: int, rows: Iterable[Row]) -> None:
        self.writes.append(f"{topic}-{partition}:{len(list(rows))}")
        await self.confirm.wait()
        if self.fails:
            raise ConnectionError("gone")


def _effects(number: int) -> MicroBatchOutput:
    key = b"%d" % number
    return MicroBatchOutput(hot={key: b"row"}, progress={b"0": key}, sessions=[(key, b"session")])


def _gate(log: _Log, failures: list[BaseException], confirm_s: float = 30.0, max_in_flight: int = 4) -> Gate:
    return Gate(log.send, max_in_flight=max_in_flight, confirm_s=confirm_s, on_failure=failures.append)


def test_progress_follows_the_rows_and_the_acknowledgement_follows_progress() -> None:
    async def scenario() -> None:
        log, acknowledged = _Log(), list[int]()
        gate = _gate(log, [])
        gate.submit(0, _effects(1), lambda: acknowledged.append(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert set(log.writes) == {f"{topics.SESSIONS}-0:1", f"{topics.HOT_CHANGELOG}-0:1"}
        assert acknowledged == []
        log.confirm.set()
        assert await gate.drain(5)
        assert log.writes[2:] == [f"{topics.PROGRESS_CHANGELOG}-0:1"]
        assert acknowledged == [1]

    asyncio.run(scenario())


def test_slices_that_wait_are_written_together_and_acknowledged_in_order() -> None:
    async def scenario() -> None:
        log, acknowledged = _Log(), list[int]()
        gate = _gate(log, [])
        for number in (1, 2, 3):
            gate.submit(0, _effects(number), partial(acknowledged.append, number))
            await asyncio.sleep(0)
        log.confirm.set()
        assert await gate.drain(5)
        assert acknowledged == [1, 2, 3]
        assert f"{topics.SESSIONS}-0:2" in log.writes
        assert log.writes.count(f"{topics.PROGRESS_CHANGELOG}-0:1") == 2

    asyncio.run(scenario())


def test_a_failed_write_acknowledges_nothing_and_is_reported() -> None:
    async def scenario() -> None:
        log, acknowledged, failures = _Log(), list[int](), list[BaseException]()
        gate = _gate(log, failures)
        log.fails = True
        log.confirm.set()
        gate.submit(3, _effects(1), lambda: acknowledged.append(1))
        assert not await gate.drain(5)
        gate.submit(3, _effects(2), lambda: acknowledged.append(2))
        await asyncio.sleep(0)
        assert acknowledged == []
        assert [str(failure) for failure in failures] == ["partition 3: ConnectionError('gone')"]
        await gate.room()

    asyncio.run(scenario())


def test_a_write_without_an_answer_fails_after_its_time() -> None:
    async def scenario() -> None:
        log, failures = _Log(), list[BaseException]()
        gate = _gate(log, failures, confirm_s=0.01)
        gate.submit(0, _effects(1), lambda: None)
        assert not await gate.drain(5)
        assert "no confirmation within" in str(failures[0])

    asyncio.run(scenario())


def test_a_full_gate_has_no_room_until_something_is_confirmed() -> None:
    async def scenario() -> None:
        log = _Log()
        gate = _gate(log, [], max_in_flight=1)
        gate.submit(0, _effects(1), lambda: None)
        waiting = asyncio.create_task(gate.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        log.confirm.set()
        await waiting

    asyncio.run(scenario())
