"""The read-ahead budget: bytes count until a micro-batch is acknowledged, and each assignment starts from zero."""

import asyncio
from types import SimpleNamespace

from stream.agents.backpressure import ReadAheadBudget, bytes_in_memory


def _budget(limit_bytes: int = 10) -> ReadAheadBudget:
    budget = ReadAheadBudget(limit_bytes)
    budget.open()
    return budget


def test_readers_wait_at_the_limit_and_go_on_below_it() -> None:
    async def scenario() -> None:
        budget = _budget()
        budget.add(9)
        await asyncio.wait_for(budget.wait_for_room(), 5)
        budget.add(5)
        waiting = asyncio.create_task(budget.wait_for_room())
        budget.release(4)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done(), "10 of 10 are held"
        budget.release(1)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_a_waiting_reader_is_let_go_when_the_assignment_ends() -> None:
    async def scenario() -> None:
        budget = _budget()
        budget.add(50)
        waiting = asyncio.create_task(budget.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting.done()
        budget.close()
        await asyncio.wait_for(waiting, 5)
        await asyncio.wait_for(budget.wait_for_room(), 5)

    asyncio.run(scenario())


def test_micro_batches_that_a_rebalance_dropped_are_forgotten() -> None:
    async def scenario() -> None:
        budget = _budget()
        budget.add(50)
        budget.close()
        budget.open()
        assert budget.held_bytes == 0
        await asyncio.wait_for(budget.wait_for_room(), 5)

    asyncio.run(scenario())


def test_records_without_a_value_weigh_something() -> None:
    empty, full = SimpleNamespace(value=None), SimpleNamespace(value=b"x" * 1_000)
    assert 0 < bytes_in_memory([empty]) == bytes_in_memory([empty, full]) - bytes_in_memory([full])
    assert bytes_in_memory([full]) > 1_000
