"""The event time up to which one partition is complete: `now` from ticks, the watermark from events.

Source: docs/stream.md, Time; docs/adr/0006-idle-by-what-ticks-saw.md; docs/adr/0008-now-bounds-the-watermark.md;
docs/adr/0018-unread-conversions-hold-the-watermark.md.
"""

from collections.abc import Mapping

from stream.join.positions import Positions
from stream.join.settings import JoinSettings
from stream.schemas import topics

HOLDING = (topics.IMPRESSIONS, topics.CLICKS)


class Watermark:
    """The clock and the watermarks of one partition; none of them moves back.

    Attributes:
        now_ts: Time of the newest tick, 0 before the first.
        watermark_ts: The join expects no impression or click at or before this time, and has read each conversion at or
            before it that came within the lateness; 0 = unknown.
        conversions_ts: The join expects no conversion at or before this time; 0 = unknown. Only the expiry of rows
            waits for it.
        newest_ts: Topic to its newest event time, clamped to the clock.
    """

    def __init__(self, settings: JoinSettings, positions: Positions) -> None:
        self._lateness_ms = settings.lateness_s * 1_000
        self._clamp_ms = settings.future_clamp_s * 1_000
        self._idle_ms = settings.idle_s * 1_000
        self._longest_wait_ms = settings.longest_wait_ms
        self._positions = positions
        self.now_ts = 0
        self.watermark_ts = 0
        self.conversions_ts = 0
        self.newest_ts: dict[str, int] = {}

    def restore(self, *, now_ts: int, watermark_ts: int, conversions_ts: int, newest_ts: Mapping[str, int]) -> None:
        """Continue from a progress row."""
        self.now_ts = now_ts
        self.watermark_ts = watermark_ts
        self.conversions_ts = conversions_ts
        self.newest_ts = dict(newest_ts)

    @property
    def expiry_ts(self) -> int:
        """Time up to which rows expire: the lower of the two watermarks."""
        return min(self.watermark_ts, self.conversions_ts)

    @property
    def outcomes_ts(self) -> int:
        """Time before which every event has its outcome, unless it is late."""
        return max(0, self.expiry_ts - self._longest_wait_ms)

    def observe(self, topic: str, event_ts: int) -> bool:
        """Note the time of an event; return whether it was too far ahead and is clamped."""
        clamped = bool(self.now_ts) and event_ts > self.now_ts + self._clamp_ms
        if clamped:
            event_ts = self.now_ts + self._clamp_ms
        if event_ts > self.newest_ts.get(topic, 0):
            self.newest_ts[topic] = event_ts
        return clamped

    def tick(self, now_ts: int) -> None:
        """Move the clock forward."""
        if not self.now_ts:
            limit_ts = now_ts + self._clamp_ms
            self.newest_ts = {topic: min(newest, limit_ts) for topic, newest in self.newest_ts.items()}
        self.now_ts = max(self.now_ts, now_ts)

    def advance(self) -> None:
        """Move the watermarks as far as the inputs allow."""
        if not self.now_ts:
            return
        complete_ts = [*(self._complete_ts(topic) for topic in HOLDING), self._read_conversions_ts()]
        if all(complete_ts):
            self.watermark_ts = max(self.watermark_ts, min(complete_ts))
        self.conversions_ts = max(self.conversions_ts, self._complete_ts(topics.CONVERSIONS))

    def _complete_ts(self, topic: str) -> int:
        # An event past now has not happened: one fast clock must not use up the lateness of all others.
        by_events = min(self.newest_ts.get(topic, 0), self.now_ts) - self._lateness_ms
        if self._is_idle(topic):
            return max(by_events, self.now_ts - self._idle_ms)
        return max(by_events, 0)

    def _read_conversions_ts(self) -> int:
        """Return the time up to which each conversion that came within the lateness is read."""
        if self._positions.has_read_all(topics.CONVERSIONS):
            # Orders may come hours late by nature. So what the log holds counts, not how new its events are.
            return self.now_ts - (self._idle_ms if self._is_idle(topics.CONVERSIONS) else self._lateness_ms)
        return self._complete_ts(topics.CONVERSIONS)

    def _is_idle(self, topic: str) -> bool:
        # The ticks decide, not the time of reading: a process may read ticks long before the events.
        if not self._positions.is_caught_up(topic):
            return False
        return self.now_ts - self._positions.last_advance_ts[topic] >= self._idle_ms
