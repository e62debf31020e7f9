"""The tail of a topic: what came since the last call, up to its end at the time of the call."""

from collections.abc import Iterator

from stream.broker.offsets import beginning_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas.records import Record

_MAX_EMPTY_POLLS = 120


class LogTail:
    """A reader of one topic from its beginning, to its end at each call.

    Raises:
        BusError: If the topic does not exist, or the broker is unreachable or refused.
    """

    def __init__(self, broker: Broker, topic: str) -> None:
        self._topic = topic
        self._reader = Reader(broker, beginning_offsets(broker, [topic]))

    def read(self) -> Iterator[Record]:
        """Yield the records since the last call, in order per partition.

        Raises:
            BusError: If the broker does not bring the topic's end.
        """
        ends = self._reader.ends()
        num_empty = 0
        # Positions decide, not the offsets of records: a producer's transaction markers take offsets, too.
        while any(offset < ends[pair] for pair, offset in self._reader.positions().items()):
            records = self._reader.poll()
            num_empty = 0 if records else num_empty + 1
            if num_empty > _MAX_EMPTY_POLLS:
                raise BusError(f"topic {self._topic}: stuck at {self._reader.positions()}, the end is {ends}")
            yield from records

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
