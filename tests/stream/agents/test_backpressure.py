"""How far a worker reads ahead: counted in bytes until a slice is acknowledged, and begun anew by each assignment."""

import asyncio
from types import SimpleNamespace

from stream.agents.backpressure import ReadAhead, weight


def _ahead(limit_bytes: int = 10) -> ReadAhead:
    ahead = ReadAhead(limit_bytes)
    ahead.open()
    return ahead


def test_readers_wait_at_the_limit_and_go_on_below_it() -> None:
    async def scenario() -> None:
        ahead = _ahead()
        ahead.take(9)
        await asyncio.wait_for(ahead.room(), 5)
        ahead.take(5)
        waiting = asyncio.create_task(ahead.room())
        ahead.give(4)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done(), "10 of 10 are held"
        ahead.give(1)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_a_waiting_reader_is_let_go_when_the_assignment_ends() -> None:
    async def scenario() -> None:
        ahead = _ahead()
        ahead.take(50)
        waiting = asyncio.create_task(ahead.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        ahead.close()
        await asyncio.wait_for(waiting, 5)
        await asyncio.wait_for(ahead.room(), 5)

    asyncio.run(scenario())


def test_slices_that_a_rebalance_dropped_are_forgotten() -> None:
    async def scenario() -> None:
        ahead = _ahead()
        ahead.take(50)
        ahead.close()
        ahead.open()
        assert ahead.held_bytes == 0
        await asyncio.wait_for(ahead.room(), 5)

    asyncio.run(scenario())


def test_records_without_a_value_weigh_something() -> None:
    empty, full = SimpleNamespace(value=None), SimpleNamespace(value=b"x" * 1_000)
    assert 0 < weight([empty]) == weight([empty, full]) - weight([full])
    assert weight([full]) > 1_000
