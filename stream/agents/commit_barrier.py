"""The delivery gate: what a slice caused is confirmed by the broker before the slice is acknowledged.

Per partition, and in order: the outputs and changelog rows, then the progress row, which claims them, then the
acknowledgement. A crash in between replays slices that the progress row does not claim. Slices that wait while a
write is under way are merged into the next one.

Source: STREAM.md 8 and `stream.join.MicroBatchOutput`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from stream.errors import BusError
from stream.join import MicroBatchOutput
from stream.schemas import topics

Row = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
_NO_HEADERS: list[tuple[str, bytes]] = []


Send = Callable[[str, int, Iterable[Row]], Awaitable[None]]
"""Writes rows to a topic and partition and returns when the broker has confirmed them."""


@dataclass(slots=True)
class _Pending:
    """Merged effects of the slices that wait in one partition."""

    outputs: dict[str, list[Row]] = field(default_factory=dict)
    hot: dict[bytes, bytes | None] = field(default_factory=dict)
    warm: dict[bytes, bytes | None] = field(default_factory=dict)
    progress: dict[bytes, bytes | None] = field(default_factory=dict)
    acknowledge: list[Callable[[], None]] = field(default_factory=list)

    def add(self, effects: MicroBatchOutput, acknowledge: Callable[[], None]) -> None:
        if effects.sessions:
            self.outputs.setdefault(topics.SESSIONS, []).extend(_rows(effects.sessions))
        if effects.profiles:
            self.outputs.setdefault(topics.PROFILES, []).extend(_rows(effects.profiles))
        for topic, letters in ((topics.UNJOINED, effects.unjoined), (topics.DEAD_LETTERS, effects.dead_letters)):
            if letters:
                self.outputs.setdefault(topic, []).extend(letters)
        self.hot.update(effects.hot)
        self.warm.update(effects.warm)
        self.progress.update(effects.progress)
        self.acknowledge.append(acknowledge)


class Gate:
    """Writes and acknowledges slices; one task per partition that has something to write."""

    def __init__(
        self, send: Send, *, max_in_flight: int, confirm_s: float, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._send = send
        self._max_in_flight = max_in_flight
        self._confirm_s = confirm_s
        self._on_failure = on_failure
        self._pending: dict[int, _Pending] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._settled = asyncio.Event()
        self._failed = False
        self.num_in_flight = 0

    async def room(self) -> None:
        """Wait until another slice may be submitted."""
        while self.num_in_flight >= self._max_in_flight and not self._failed:
            self._settled.clear()
            await self._settled.wait()

    def submit(self, partition: int, effects: MicroBatchOutput, acknowledge: Callable[[], None]) -> None:
        """Queue the effects of one slice; `acknowledge` is called when all of them are confirmed, in order."""
        self.num_in_flight += 1
        self._pending.setdefault(partition, _Pending()).add(effects, acknowledge)
        if partition not in self._tasks and not self._failed:
            self._tasks[partition] = asyncio.get_running_loop().create_task(self._write(partition))

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; return False on failure or when that takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.num_in_flight and not self._failed:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return False
        return not self._failed

    async def _write(self, partition: int) -> None:
        try:
            while (pending := self._pending.pop(partition, None)) is not None:
                async with asyncio.timeout(self._confirm_s):
                    await self._write_in_order(partition, pending)
                for acknowledge in pending.acknowledge:
                    acknowledge()
                self.num_in_flight -= len(pending.acknowledge)
                self._settled.set()
        except Exception as error:  # noqa: BLE001 - any failure here means: never acknowledge, stop the worker
            self._failed = True
            self._settled.set()
            what = f"no confirmation within {self._confirm_s:.0f} s" if isinstance(error, TimeoutError) else repr(error)
            self._on_failure(BusError(f"partition {partition}: {what}"))
        finally:
            del self._tasks[partition]

    async def _write_in_order(self, partition: int, pending: _Pending) -> None:
        await self._send_all(partition, pending.outputs | _changelogs(pending))
        await self._send_all(partition, {topics.PROGRESS_CHANGELOG: _rows(pending.progress.items())})

    async def _send_all(self, partition: int, writes: Mapping[str, list[Row]]) -> None:
        busy = [self._send(topic, partition, rows) for topic, rows in writes.items() if rows]
        if len(busy) == 1:
            await busy[0]
        elif busy:
            await asyncio.gather(*busy)


def _changelogs(pending: _Pending) -> dict[str, list[Row]]:
    return {topics.HOT_CHANGELOG: _rows(pending.hot.items()), topics.WARM_CHANGELOG: _rows(pending.warm.items())}


def _rows(changes: Iterable[tuple[bytes, bytes | None]]) -> list[Row]:
    return [(key, value, _NO_HEADERS) for key, value in changes]
