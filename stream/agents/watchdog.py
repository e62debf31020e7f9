"""Detection of a worker that stands still although there is something to read; pure, the time is an argument.

Source: docs/stream.md.
"""

from collections.abc import Hashable


class Watchdog:
    """Times at which each offset last moved, and at which the broker last answered."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._moved: dict[Hashable, tuple[float, int]] = {}
        self._answered_s: float | None = None

    def reset(self) -> None:
        """Forget all offsets, because the partitions have changed."""
        self._moved.clear()

    def record_answer(self, now_s: float) -> None:
        """Record the time of the last answer of the broker.

        Without answers the lag is unknown, so that a silent broker also counts as a standstill.
        """
        self._answered_s = now_s

    def observe(self, now_s: float, name: Hashable, position: int, lag: int) -> None:
        """Record the position of `name`; without lag it need not move.

        >>> dog = Watchdog(60.0)
        >>> dog.observe(0.0, "clicks-0", 5, lag=3)
        >>> dog.check(60.0), dog.check(61.0)
        (None, 'clicks-0 has lag but has not moved from offset 5 for 61 s')
        """
        known = self._moved.get(name)
        if known is not None and known[1] != position:
            self.record_answer(now_s)
        if known is None or known[1] != position or lag == 0:
            self._moved[name] = (now_s, position)

    def observe_recovery(self, now_s: float, num_rows: int) -> None:
        """Record the number of changelog rows that were read while there is no open assignment."""
        self._moved = {"recovery": self._moved.get("recovery", (now_s, -1))}
        self.observe(now_s, "recovery", num_rows, lag=1)

    def check(self, now_s: float) -> str | None:
        """Return a description of the first standstill that is longer than the limit, or None.

        >>> dog = Watchdog(60.0)
        >>> dog.record_answer(0.0)
        >>> dog.check(61.0)
        'the broker has not answered for 61 s'
        """
        for name, (moved_s, position) in self._moved.items():
            if now_s - moved_s > self._limit_s:
                shown = "-".join(map(str, name)) if isinstance(name, tuple) else str(name)
                return f"{shown} has lag but has not moved from offset {position} for {now_s - moved_s:.0f} s"
        if self._answered_s is not None and now_s - self._answered_s > self._limit_s:
            return f"the broker has not answered for {now_s - self._answered_s:.0f} s"
        return None
