"""Back-pressure between the input topics of one partition: a topic that runs ahead of a lagging one is paused.

Source: docs/stream.md, Memory.
"""

from stream.join.positions import Positions
from stream.join.watermark import Watermark
from stream.schemas import topics


class Backpressure:
    """The selection of topics to pause."""

    def __init__(self, positions: Positions, watermark: Watermark) -> None:
        self._positions = positions
        self._watermark = watermark

    def topics_ahead(self, limit_ms: int) -> frozenset[str]:
        """Return the topics that are ahead of the slowest lagging topic by more than a limit.

        The slowest topic is never among them, so that reading always continues.
        """
        watermark_ts, newest_ts = self._watermark.watermark_ts, self._watermark.newest_ts
        lagging = [topic for topic in topics.EVENT_TOPICS if self._positions.is_lagging(topic)]
        reached_ts = [max(newest_ts.get(topic, 0), watermark_ts) for topic in lagging]
        # The event time of a topic without an event is unknown.
        slowest_ts = min(filter(None, reached_ts), default=0)
        if not slowest_ts:
            return frozenset()
        return frozenset(topic for topic in topics.EVENT_TOPICS if newest_ts.get(topic, 0) - slowest_ts > limit_ms)
