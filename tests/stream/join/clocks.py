"""A clock for tests: positions, watermark and back-pressure as the join connects them."""

from collections.abc import Mapping

from stream.join.backpressure import Backpressure
from stream.join.positions import Positions
from stream.join.settings import JoinSettings
from stream.join.watermark import Watermark
from stream.schemas import topics

NOW_TS = 1_700_000_000_000
ENDS = {topics.IMPRESSIONS: 1, topics.CLICKS: 1, topics.CONVERSIONS: 0}


class Clock:
    """Positions, watermark and back-pressure of one partition."""

    def __init__(self) -> None:
        self.positions = Positions()
        self.watermark = Watermark(JoinSettings(), self.positions)
        self.backpressure = Backpressure(self.positions, self.watermark)

    def tick(self, now_ts: int, ends: Mapping[str, int], tails: Mapping[str, int] | None = None) -> None:
        """Read a tick."""
        self.watermark.tick(now_ts)
        self.positions.learn_ends(ends, self.watermark.now_ts, tails or {})

    def read(self, topic: str, event_ts: int) -> bool:
        """Read the next event of a topic, and return whether its time was clamped."""
        assert self.positions.advance(topic, self.positions.next_offsets.get(topic, 0))
        return self.watermark.observe(topic, event_ts)
