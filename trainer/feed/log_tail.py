"""The tail of a topic: what came since the last call, up to its end at the time of the call."""

from collections.abc import Iterator

from stream.broker.offsets import beginning_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.schemas.records import Record


class LogTail:
    """A reader of one topic from its beginning, to its end at each call.

    Raises:
        BusError: If the topic does not exist, or the broker is unreachable or refused.
    """

    def __init__(self, broker: Broker, topic: str) -> None:
        self._reader = Reader(broker, beginning_offsets(broker, [topic]))

    def read(self) -> Iterator[Record]:
        """Yield the records since the last call, in order per partition.

        Raises:
            BusError: If the broker does not bring the topic's end.
        """
        yield from self._reader.read_to(self._reader.ends())

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
