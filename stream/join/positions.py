"""Positions of one partition in its input topics: next offsets, and the ends of the logs as far as known."""

from collections.abc import Mapping


class Positions:
    """Next offset and known end of each input topic.

    Attributes:
        next_offsets: Topic to the offset after the newest merged record.
        ends: Topic to its end offset as the ticks state it.
        last_advance_ts: Topic to the time of the first tick with that end offset.
        tails: Topic to the offset from which up to its end no record is, where a tick states it.
    """

    def __init__(self) -> None:
        self.next_offsets: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.last_advance_ts: dict[str, int] = {}
        self.tails: dict[str, int] = {}
        self._start_ends: dict[str, int] = {}

    def restore(
        self,
        next_offsets: Mapping[str, int],
        ends: Mapping[str, int],
        last_advance_ts: Mapping[str, int],
        tails: Mapping[str, int],
    ) -> None:
        """Continue from a progress row."""
        self.next_offsets = dict(next_offsets)
        self.ends = dict(ends)
        self.last_advance_ts = dict(last_advance_ts)
        self.tails = dict(tails)

    def seed(self, next_offsets: Mapping[str, int], ends: Mapping[str, int]) -> None:
        """Take over committed or first offsets, and the end offsets at the start of this process.

        Back-pressure alone may depend on the ends at the start: another run over the same log has other ones.
        """
        self._start_ends.update(ends)
        for topic, offset in next_offsets.items():
            self.next_offsets[topic] = max(offset, self.next_offsets.get(topic, 0))

    def advance(self, topic: str, offset: int) -> bool:
        """Move past a record; return False if a record at this offset was merged before."""
        if offset < self.next_offsets.get(topic, 0):
            return False
        self.next_offsets[topic] = offset + 1
        return True

    def learn_ends(self, ends: Mapping[str, int], now_ts: int, tails: Mapping[str, int]) -> None:
        """Learn the end offsets that a tick states, and the offsets before them that hold no record.

        A transaction marker takes an offset as a record does, and no reader gets to see it.
        """
        for topic, offset in ends.items():
            if offset > self.ends.get(topic, -1):
                self.ends[topic] = offset
                self.last_advance_ts[topic] = now_ts
                self.tails.pop(topic, None)
            if offset == self.ends[topic] and topic in tails:
                self.tails[topic] = tails[topic]

    def has_merged(self, topic: str, offset: int) -> bool:
        """Return whether the record at an offset is merged."""
        return offset < self.next_offsets.get(topic, 0)

    def is_caught_up(self, topic: str) -> bool:
        """Return whether exactly the records up to the end that the ticks state are read."""
        end = self.ends.get(topic)
        return end is not None and self._position(topic) == end

    def has_read_all(self, topic: str) -> bool:
        """Return whether every record that the ticks know of is read."""
        return self._position(topic) >= self.ends.get(topic, 0)

    def is_lagging(self, topic: str) -> bool:
        """Return whether a record that existed at the start, or that the ticks know of, is unread."""
        known_end = max(self.ends.get(topic, 0), self._start_ends.get(topic, 0))
        return self._position(topic) < known_end

    def _position(self, topic: str) -> int:
        """Return the next offset, past the offsets without a record at the end of the log."""
        position, end = self.next_offsets.get(topic, 0), self.ends.get(topic, 0)
        return end if self.tails.get(topic, end) <= position <= end else position
