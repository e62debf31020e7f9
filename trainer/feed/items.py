"""Items for the trainer: the topic `items`, applied to a catalogue up to a given time only.

Source: docs/training.md.
"""

from typing import Protocol

import msgspec

from stream.broker.settings import Broker
from stream.replicas.catalogue import Catalogue
from stream.schemas import topics
from stream.schemas.events import Item
from trainer.feed.log_tail import LogTail

_decoder = msgspec.json.Decoder(Item)


class ItemFeed(Protocol):
    """A source of items that brings a catalogue forward."""

    @property
    def num_rejected(self) -> int:
        """Item records left out because they could not be decoded."""

    def advance(self, catalogue: Catalogue, until_ts: int) -> None:
        """Apply the items with `updated_ts` up to a time, in log order."""


class KafkaItems:
    """A feed of items that reads the topic to its end at each call.

    An item that was produced before a session is therefore known when the session is trained. A tombstone has no
    `updated_ts`; the time of its record takes its place. Records that cannot be decoded are counted in `num_rejected`.
    """

    def __init__(self, broker: Broker) -> None:
        self._tail = LogTail(broker, topics.ITEMS)
        self._waiting: list[tuple[int, str, Item | None]] = []
        self.num_rejected = 0

    def advance(self, catalogue: Catalogue, until_ts: int) -> None:
        """Apply the items with `updated_ts` up to a time, in log order.

        Raises:
            BusError: If the broker does not bring the topic's end.
        """
        for record in self._tail.read():
            self._wait(record.key, record.value, record.timestamp)
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
        self._tail.close()
