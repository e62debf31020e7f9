"""Backpressure of a demo: shoppers wait while a trainer is behind, so that a slow machine shows the same story.

The shoppers hold the simulated clock, so nothing happens in the shop while they wait. A trainer that starts again is
behind as well. Trainers are compared with the sink, which reads the same log: against the newest event, a trainer that
has read all of it could be behind for ever, since no tick moves its watermark while the shoppers wait.
"""

from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy import Engine

from abtest.fact_writer import progress
from deploy.demo.progress import watermark_ms
from stream import db

_LOOK_S: Final = 0.5


class Backpressure:
    """Signals to the shoppers to wait and to go on.

    Args:
        engine: Database of the facts, whose watermark is the place that trainers should have reached.
        trainers: Ports of the trainers.
        max_lag_ms: Simulated time that a trainer may be behind; shoppers go on at half of it.
        monotonic_s: Clock of the looks.
        pause: Stops the shoppers.
        go_on: Lets them go on.
    """

    def __init__(
        self,
        engine: Engine,
        trainers: Iterable[int],
        max_lag_ms: int,
        *,
        monotonic_s: Callable[[], float],
        pause: Callable[[], None],
        go_on: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._trainers = tuple(trainers)
        self._max_lag_ms = max_lag_ms
        self._monotonic_s = monotonic_s
        self._pause = pause
        self._go_on = go_on
        self._due_s = 0.0
        self._is_paused = False

    def look(self) -> None:
        """Stop the shoppers, or let them go on, if a look is due and the slowest trainer says so."""
        now_s = self._monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _LOOK_S
        lag_ms = self._lag_ms()
        if not self._is_paused and lag_ms > self._max_lag_ms:
            self._is_paused = True
            self._pause()
        elif self._is_paused and lag_ms <= self._max_lag_ms // 2:
            self._is_paused = False
            self._go_on()

    def _lag_ms(self) -> int:
        with db.read(self._engine) as connection:
            reached_ms, _ = progress(connection)
        return 0 if reached_ms is None else reached_ms - min(map(watermark_ms, self._trainers))
