"""Items for the trainer: the topic `items`, applied to a catalogue up to a given time only.

Source: docs/training.md.
"""

import msgspec

from stream.broker.offsets import beginning_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.replicas.catalogue import Catalogue
from stream.schemas import topics
from stream.schemas.events import Item

_MAX_EMPTY_POLLS = 120
_decoder = msgspec.json.Decoder(Item)


class KafkaItems:
    """A feed of items that reads the topic to its end at each call.

    An item that was produced before a session is therefore known when the session is trained. A tombstone has no
    `updated_ts`; the time of its record takes its place. Records that cannot be decoded are counted in `num_rejected`.
    """

    def __init__(self, broker: Broker) -> None:
        self._reader = Reader(broker, beginning_offsets(broker, [topics.ITEMS]))
        self._waiting: list[tuple[int, str, Item | None]] = []
        self.num_rejected = 0

    def advance(self, catalogue: Catalogue, until_ts: int) -> None:
        """Apply the items with `updated_ts` up to a time, in log order.

        Raises:
            BusError: If the broker does not bring the topic's end.
        """
        self._read_to_end()
        later: list[tuple[int, str, Item | None]] = []
        for entry in self._waiting:
            updated_ts, item_id, item = entry
            if updated_ts > until_ts:
                later.append(entry)
            elif item is None:
                catalogue.remove(item_id)
            else:
                catalogue.put(item)
        self._waiting = later

    def _read_to_end(self) -> None:
        ends = self._reader.ends()
        num_empty = 0
        # Positions decide, not the offsets of records: a producer's transaction markers take offsets, too.
        while any(offset < ends[pair] for pair, offset in self._reader.positions().items()):
            records = self._reader.poll()
            num_empty = 0 if records else num_empty + 1
            if num_empty > _MAX_EMPTY_POLLS:
                raise BusError(f"topic {topics.ITEMS}: stuck at {self._reader.positions()}, the end is {ends}")
            for record in records:
                self._wait(record.key, record.value, record.timestamp)

    def _wait(self, key: bytes | None, value: bytes | None, timestamp: int) -> None:
        if value is None:
            self._waiting.append((timestamp, (key or b"").decode(errors="replace"), None))
            return
        try:
            item = _decoder.decode(value)
        except msgspec.MsgspecError:
            self.num_rejected += 1
            return
        self._waiting.append((item.updated_ts, item.item_id, item))

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
