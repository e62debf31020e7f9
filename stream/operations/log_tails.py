"""The offset after the newest record of a partition whose log ends in transaction markers or aborted records.

No reader gets to see these entries. A join that counted them as records to come would take the partition for a lagging
one for ever.

Source: docs/adr/0011-at-least-once.md.
"""

from collections.abc import Mapping
from typing import Self

from stream.broker.connection import Partition
from stream.broker.offsets import end_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.schemas import topics

_FIRST_STEP = 4
_STEP_FACTOR = 8


class LogTails:
    """A search for the newest record of each event partition, backwards from the end of its log."""

    def __init__(self, broker: Broker) -> None:
        self._reader = Reader(broker, end_offsets(broker, topics.EVENT_TOPICS))
        self._known: dict[Partition, tuple[int, int]] = {}
        """Partition to the end of its log at the last search, and the offset after the newest record before it."""

    def find(self, ends: Mapping[Partition, int], written: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the offset after the newest record of each partition whose log goes on behind that record.

        A partition with an open transaction has none: its records are yet to come.

        Args:
            ends: End of the log of each partition.
            written: Offset after the newest record that the caller has written there; a log that ends so has no tail.

        Raises:
            BusError: If the broker is unreachable.
        """
        unknown = {
            pair: end
            for pair, end in ends.items()
            if end and written.get(pair) != end and self._known.get(pair, (-1, 0))[0] != end
        }
        if unknown:
            self._search(unknown)
        known = {pair: self._known[pair] for pair in ends if pair in self._known}
        return {pair: tail for pair, (end, tail) in known.items() if tail < end == ends[pair]}

    def _search(self, ends: Mapping[Partition, int]) -> None:
        self._reader.restart(ends)
        stable = self._reader.ends()
        searched = {pair: end for pair, end in ends.items() if stable[pair] >= end}
        # By the kept connection: it outlives a restart of the broker, and a new one costs a hundred milliseconds.
        first = self._reader.beginnings() if searched else {}
        step = _FIRST_STEP
        while searched:
            starts = {pair: max(first[pair], end - step) for pair, end in searched.items()}
            newest = self._newest(starts, searched)
            for pair, start in starts.items():
                if pair in newest or start == first[pair]:
                    self._known[pair] = (searched.pop(pair), newest.get(pair, start))
            step *= _STEP_FACTOR

    def _newest(self, starts: Mapping[Partition, int], ends: Mapping[Partition, int]) -> dict[Partition, int]:
        """Return the offset after the newest record from `starts` to `ends` of each partition that has one."""
        newest: dict[Partition, int] = {}
        self._reader.restart(starts)
        unread = set(starts)
        while unread:
            for record in self._reader.poll():
                pair = (record.topic, record.partition)
                if record.offset < ends[pair]:
                    newest[pair] = max(newest.get(pair, 0), record.offset + 1)
            positions = self._reader.positions()
            unread = {pair for pair in unread if positions[pair] < ends[pair]}
        return newest

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
