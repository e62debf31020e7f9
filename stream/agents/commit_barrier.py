"""The commit barrier: the broker confirms the output of a micro-batch before the micro-batch is acknowledged.

Per partition, and in order: the records and changelog rows, then the progress row, which claims them, then the
acknowledgement. A crash in between replays the micro-batches that the progress row does not claim. The outputs of
micro-batches that wait during a write are merged into the next one.

Source: docs/stream.md; docs/adr/0011-at-least-once.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from stream.errors import BusError
from stream.join.output import MicroBatchOutput
from stream.schemas import topics

Row = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
_NO_HEADERS: list[tuple[str, bytes]] = []


Send = Callable[[str, int, Iterable[Row]], Awaitable[None]]
"""Write rows to a topic and partition and return when the broker has confirmed them."""


@dataclass(slots=True)
class _Pending:
    """Merged output of the micro-batches that wait in one partition."""

    records: dict[str, list[Row]] = field(default_factory=dict)
    hot: dict[bytes, bytes | None] = field(default_factory=dict)
    warm: dict[bytes, bytes | None] = field(default_factory=dict)
    progress: dict[bytes, bytes | None] = field(default_factory=dict)
    acknowledge: list[Callable[[], None]] = field(default_factory=list)

    def add(self, output: MicroBatchOutput, acknowledge: Callable[[], None]) -> None:
        if output.sessions:
            self.records.setdefault(topics.SESSIONS, []).extend(_rows(output.sessions))
        if output.profiles:
            self.records.setdefault(topics.PROFILES, []).extend(_rows(output.profiles))
        for topic, dead_letters in ((topics.UNJOINED, output.unjoined), (topics.DEAD_LETTERS, output.dead_letters)):
            if dead_letters:
                self.records.setdefault(topic, []).extend(dead_letters)
        self.hot.update(output.hot)
        self.warm.update(output.warm)
        self.progress.update(output.progress)
        self.acknowledge.append(acknowledge)


class CommitBarrier:
    """Writer and acknowledger of micro-batches, with one task per partition that has something to write.

    Attributes:
        num_in_flight: Number of micro-batches that are submitted and not acknowledged.
    """

    def __init__(
        self, send: Send, *, max_in_flight: int, confirm_s: float, on_failure: Callable[[BaseException], None]
    ) -> None:
        self._send = send
        self._max_in_flight = max_in_flight
        self._confirm_s = confirm_s
        self._on_failure = on_failure
        self._pending: dict[int, _Pending] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._failed = False
        self.num_in_flight = 0

    async def wait_for_room(self) -> None:
        """Wait until another micro-batch may be submitted."""
        while self.num_in_flight >= self._max_in_flight and not self._failed:
            self._changed.clear()
            await self._changed.wait()

    def submit(self, partition: int, output: MicroBatchOutput, acknowledge: Callable[[], None]) -> None:
        """Queue the output of one micro-batch, and call `acknowledge` when all of it is confirmed, in order."""
        self.num_in_flight += 1
        self._pending.setdefault(partition, _Pending()).add(output, acknowledge)
        if partition not in self._tasks and not self._failed:
            self._tasks[partition] = asyncio.get_running_loop().create_task(self._write(partition))

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; return False on failure or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.num_in_flight and not self._failed:
                    self._changed.clear()
                    await self._changed.wait()
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
                self._changed.set()
        except Exception as error:  # noqa: BLE001 - after a failure nothing is acknowledged, and the worker stops
            self._failed = True
            self._changed.set()
            fault = (
                f"no confirmation within {self._confirm_s:.0f} s" if isinstance(error, TimeoutError) else repr(error)
            )
            self._on_failure(BusError(f"partition {partition}: {fault}"))
        finally:
            del self._tasks[partition]

    async def _write_in_order(self, partition: int, pending: _Pending) -> None:
        await self._send_all(partition, pending.records | _changelogs(pending))
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
