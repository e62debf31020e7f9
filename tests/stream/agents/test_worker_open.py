"""What the worker does between the end of a recovery and its first slice, and what its beats take for a standstill."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import cast

import pytest
from faust.types import TP

from stream.agents.faust_consumer import SliceApp
from stream.agents.fencing import Lease
from stream.agents.settings import WorkerSettings
from stream.agents.watchdog import Watchdog
from stream.agents.worker import Worker
from stream.errors import BusError


def test_a_recovery_that_is_over_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat between the end of the recovery and readiness watches the recovery; readiness must forget that."""
    worker = Worker.__new__(Worker)
    worker._marks = {}
    worker._watchdog = Watchdog(60.0)
    worker._clock = lambda: opened_s
    opened_s = 2.0

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
    monkeypatch.setattr(Worker, "_starts", lambda *_: {"clicks": 7})
    asyncio.run(opened())
    assert not worker._watchdog.check(opened_s + 60.0)
    assert worker._watchdog.check(opened_s + 61.0) == "the broker has not answered for 61 s", "by the injected clock"
    assert worker._ends == {TP("clicks", 3): 7}
    assert worker._positions == {TP("clicks", 3): 7}, "else what was read before looks like lag until a beat succeeds"


@pytest.mark.parametrize(
    ("moves", "ends"), [(True, 1_000), (False, 1_000), (False, 7)], ids=["moving", "still", "nothing to read"]
)
def test_what_moves_while_beats_fail_does_not_stand_still(
    monkeypatch: pytest.MonkeyPatch, *, moves: bool, ends: int
) -> None:
    """The broker may be gone whenever a beat asks it, and there whenever slices are written."""
    clicks = TP("clicks", 3)
    worker = Worker.__new__(Worker)
    worker._settings = WorkerSettings(watchdog_s=60.0)
    worker._watchdog = Watchdog(60.0)
    worker._tables, worker._paused = [], {}
    worker._positions, worker._ends = {clicks: 7}, {clicks: ends}
    worker._failure = None
    worker._app = cast("SliceApp", SimpleNamespace(crashed=False))
    worker._lease = Lease(10.0, lambda: None)
    beats = 0
    real_sleep = asyncio.sleep

    async def beat(_: Worker) -> None:
        nonlocal beats
        beats += 1
        worker._positions[clicks] += moves
        raise BusError("away")

    async def run() -> None:
        now_s = 5.0

        async def sleep(_: float) -> None:
            nonlocal now_s
            now_s += 1.0
            await real_sleep(0)
            if beats == 100:
                raise asyncio.CancelledError

        worker._ready, worker._ended = asyncio.Event(), asyncio.Event()
        worker._ready.set()
        worker._watchdog.observe(now_s, clicks, 7, ends - 7)
        worker._clock = lambda: now_s
        monkeypatch.setattr(asyncio, "sleep", sleep)
        with contextlib.suppress(asyncio.CancelledError):
            await worker._pulse()

    monkeypatch.setattr(Worker, "_beat", beat)
    asyncio.run(run())
    assert beats == 100
    if moves:
        assert worker._failure is None
    else:
        words = "has not moved" if ends > 7 else "the broker has not answered"
        assert words in str(worker._failure)
