"""What the worker does between the end of a recovery and its first slice."""

import asyncio

import pytest
from faust.types import TP

from stream.agents.watchdog import Watchdog
from stream.agents.worker import Worker


def test_a_recovery_that_is_over_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat between the end of the recovery and readiness watches the recovery; readiness must forget that."""
    worker = Worker.__new__(Worker)
    worker._marks = {}
    worker._watchdog = Watchdog(60.0)

    async def verify(_: Worker) -> None:
        worker._watchdog.observe_recovery(1.0, 5)

    async def opened() -> None:
        worker._ready, worker._ended = asyncio.Event(), asyncio.Event()
        await worker._open(3)
        assert worker._ready.is_set()

    async def find_ends(_: Worker, partitions: list[int]) -> dict[TP, int]:
        return {TP("clicks", number): 7 for number in partitions}

    monkeypatch.setattr(Worker, "_verify", verify)
    monkeypatch.setattr(Worker, "_owned", lambda _: [3])
    monkeypatch.setattr(Worker, "_find_ends", find_ends)
    asyncio.run(opened())
    assert not worker._watchdog.check(1_000.0)
    assert worker._ends == {TP("clicks", 3): 7}
