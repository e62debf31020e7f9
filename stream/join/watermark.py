"""The clock of one partition: `now` from ticks, the watermark from events, and the rule for quiet topics.

Source: STREAM.md 6.
"""

from stream.join.settings import JoinSettings
from stream.schemas import topics

HOLDING = (topics.IMPRESSIONS, topics.CLICKS)


class Clock:
    """Tracks how far each input has come; neither `now` nor a watermark ever falls.

    Attributes:
        now_ts: Time of the newest tick, 0 before the first.
        watermark_ts: No impression or click at or before this time is expected any more; 0 = unknown.
        conversions_ts: The same for conversions, which hold nothing but the expiry of rows.
        ends: End offsets as they were when this process began; only pauses may depend on them, as no other run over the
            log has the same.
    """

    def __init__(self, settings: JoinSettings) -> None:
        self._lateness_ms = settings.lateness_s * 1_000
        self._clamp_ms = settings.future_clamp_s * 1_000
        self._idle_ms = settings.idle_s * 1_000
        self.now_ts = 0
        self.watermark_ts = 0
        self.conversions_ts = 0
        self.next: dict[str, int] = {}
        self.high: dict[str, int] = {}
        self.hw: dict[str, int] = {}
        self.grown_ts: dict[str, int] = {}
        self.ends: dict[str, int] = {}

    def see(self, topic: str, event_ts: int) -> bool:
        """Take note of an event; return whether its time lay too far ahead and was clamped."""
        clamped = bool(self.now_ts) and event_ts > self.now_ts + self._clamp_ms
        if clamped:
            event_ts = self.now_ts + self._clamp_ms
        if event_ts > self.high.get(topic, 0):
            self.high[topic] = event_ts
        return clamped

    def tick(self, now_ts: int, hw: dict[str, int]) -> None:
        """Move `now` forward and learn the end offsets that were known then."""
        if not self.now_ts:
            limit = now_ts + self._clamp_ms
            self.high = {topic: min(high, limit) for topic, high in self.high.items()}
        self.now_ts = max(self.now_ts, now_ts)
        for topic, offset in hw.items():
            if offset > self.hw.get(topic, -1):
                self.hw[topic] = offset
                self.grown_ts[topic] = self.now_ts

    def advance(self) -> None:
        """Move the watermarks as far as the inputs allow."""
        if not self.now_ts:
            return
        parts = [self._contribution(topic) for topic in HOLDING]
        if all(parts):
            self.watermark_ts = max(self.watermark_ts, min(parts))
        self.conversions_ts = max(self.conversions_ts, self._contribution(topics.CONVERSIONS))

    @property
    def expiry_ts(self) -> int:
        """Rows expire by the slower of the two watermarks."""
        return min(self.watermark_ts, self.conversions_ts)

    def has_read(self, topic: str) -> bool:
        """Return whether all records of a topic that the ticks know of were read."""
        return self.next.get(topic, 0) >= self.hw.get(topic, 0)

    def ahead(self, limit_ms: int) -> frozenset[str]:
        """Return the topics that lead the slowest one that lags by more than a limit.

        The slowest is never among them, so something always moves.
        """
        reached_ts = [
            max(self.high.get(topic, 0), self.watermark_ts) for topic in topics.EVENT_TOPICS if not self._is_read(topic)
        ]
        # Of a topic without an event it is not known where it stands.
        slowest_ts = min(filter(None, reached_ts), default=0)
        if not slowest_ts:
            return frozenset()
        return frozenset(topic for topic in topics.EVENT_TOPICS if self.high.get(topic, 0) - slowest_ts > limit_ms)

    def _is_read(self, topic: str) -> bool:
        return self.next.get(topic, 0) >= max(self.hw.get(topic, 0), self.ends.get(topic, 0))

    def _contribution(self, topic: str) -> int:
        # Nothing that has happened lies past now: else one clock that is ahead uses up the lateness of all the others.
        by_events = min(self.high.get(topic, 0), self.now_ts) - self._lateness_ms
        if self._is_idle(topic):
            return max(by_events, self.now_ts - self._idle_ms)
        return max(by_events, 0)

    def _is_idle(self, topic: str) -> bool:
        # Quiet by what the ticks saw, not by when this process read it: ticks may be read long before the events.
        hw = self.hw.get(topic)
        caught_up = hw is not None and self.next.get(topic, 0) == hw
        return caught_up and self.now_ts - self.grown_ts[topic] >= self._idle_ms
