"""The item catalogue: a replica of the compacted topic `items`, with its vectors decoded once.

A catalogue honours one vector space per modality: a vector of another space, or of another width, counts as missing.
Applying the same records again changes nothing.
"""

import logging
from collections.abc import Container, Iterable, Iterator, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.broker.offsets import beginning_offsets
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas import topics
from stream.schemas.events import Item, encode
from stream.schemas.records import Record

Vector = NDArray[np.float16]

_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(Item)


class Catalogue(Mapping[str, Item]):
    """Item id to item, with `image` and `text` vectors as float16 arrays.

    Attributes:
        image_space: Name of the image vector space; adopted from the first image vector when not given.
        text_space: The same for text vectors.
        positions: Next offset per (topic, partition) of the records applied, to follow the topic from.
        num_rejected: Records that could not be decoded, and were left out.

    Guarantees: one writer and many readers may use it from several threads.
    """

    def __init__(
        self, items: Iterable[Item] = (), *, image_space: str | None = None, text_space: str | None = None
    ) -> None:
        self._items: dict[str, Item] = {}
        self._image: dict[str, Vector] = {}
        self._text: dict[str, Vector] = {}
        self._image_width = 0
        self._text_width = 0
        self.image_space = image_space
        self.text_space = text_space
        self.positions: dict[tuple[str, int], int] = {}
        self.num_rejected = 0
        for item in items:
            self.put(item)

    @classmethod
    def from_records(
        cls, records: Iterable[Record], *, image_space: str | None = None, text_space: str | None = None
    ) -> "Catalogue":
        """Return the catalogue that `records` of the topic `items` describe, tombstones included."""
        catalogue = cls(image_space=image_space, text_space=text_space)
        catalogue.apply(records)
        return catalogue

    @classmethod
    def load(cls, broker: Broker, *, image_space: str | None = None, text_space: str | None = None) -> "Catalogue":
        """Read the topic `items` to its end.

        The result's `positions` are complete: `Reader(broker, catalogue.positions)` yields what follows.

        Raises:
            BusError: If the broker is unreachable or the topic does not exist.
        """
        start = beginning_offsets(broker, [topics.ITEMS])
        catalogue = cls.from_records(read_to_end(broker, topics.ITEMS), image_space=image_space, text_space=text_space)
        catalogue.positions = start | catalogue.positions
        return catalogue

    def apply(self, records: Iterable[Record]) -> int:
        """Apply further records of `items` in offset order and return how many were applied; follows the topic live."""
        num_applied = 0
        for record in records:
            self.positions[record.topic, record.partition] = record.offset + 1
            if record.value is None:
                self.remove((record.key or b"").decode(errors="replace"))
            else:
                try:
                    item = _decoder.decode(record.value)
                except msgspec.MsgspecError as error:
                    self.num_rejected += 1
                    _log.warning(
                        "%s/%d, offset %d: record left out: %s", record.topic, record.partition, record.offset, error
                    )
                    continue
                self.put(item)
            num_applied += 1
        return num_applied

    def put(self, item: Item) -> None:
        """Insert or replace one item and decode its vectors."""
        image = self._decode_image(item)
        text = self._decode_text(item)
        # Vectors first: a reader in another thread that sees the item also sees them.
        _set_or_drop(self._image, item.item_id, image)
        _set_or_drop(self._text, item.item_id, text)
        self._items[item.item_id] = item

    def remove(self, item_id: str) -> None:
        """Forget one item, as its tombstone asks; an unknown one is no fault."""
        self._items.pop(item_id, None)
        self._image.pop(item_id, None)
        self._text.pop(item_id, None)

    def image(self, item_id: str) -> Vector | None:
        """Return the image vector, or None when unknown, missing, or of another vector space."""
        return self._image.get(item_id)

    def text(self, item_id: str) -> Vector | None:
        """Return the text vector, or None when unknown, missing, or of another vector space."""
        return self._text.get(item_id)

    def __getitem__(self, item_id: str) -> Item:
        return self._items[item_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def get(self, item_id: str, default: Item | None = None) -> Item | None:  # type: ignore[override]
        """Return the record of an item, or the default; `Mapping.get` takes several times as long."""
        return self._items.get(item_id, default)

    def __len__(self) -> int:
        return len(self._items)

    def _decode_image(self, item: Item) -> Vector | None:
        vector = _vector(item.image_vec)
        if vector is None:
            return None
        if self.image_space is None:
            self.image_space = item.image_model
        if item.image_model != self.image_space:
            return None
        self._image_width = self._image_width or len(vector)
        return vector if len(vector) == self._image_width else None

    def _decode_text(self, item: Item) -> Vector | None:
        vector = _vector(item.text_vec)
        if vector is None:
            return None
        if self.text_space is None:
            self.text_space = item.text_model
        if item.text_model != self.text_space:
            return None
        self._text_width = self._text_width or len(vector)
        return vector if len(vector) == self._text_width else None


def publish(producer: Producer, items: Iterable[Item]) -> int:
    """Queue items for the topic `items` and return how many; the caller flushes."""
    num_items = 0
    for item in items:
        producer.send(topics.ITEMS, key=item.item_id.encode(), value=encode(item))
        num_items += 1
    return num_items


class _Titled(msgspec.Struct):
    item_id: str
    title: str


_titled = msgspec.json.Decoder(_Titled)


def titles(records: Iterable[Record], wanted: Container[str]) -> dict[str, str]:
    """Return the titles of these items; a catalogue of all items would take much memory for a few titles.

    Args:
        records: Records of the topic `items`, in offset order.
        wanted: Ids of the items.
    """
    found: dict[str, str] = {}
    for record in records:
        item_id = (record.key or b"").decode(errors="replace")
        if item_id not in wanted:
            continue
        try:
            found[item_id] = _titled.decode(record.value or b"").title
        except msgspec.MsgspecError:
            found.pop(item_id, None)
    return found


def _vector(raw: bytes | None) -> Vector | None:
    if not raw or len(raw) % 2:
        return None
    vector = np.frombuffer(raw, dtype="<f2")
    return vector if bool(np.isfinite(vector).all()) else None


def _set_or_drop(vectors: dict[str, Vector], item_id: str, vector: Vector | None) -> None:
    if vector is None:
        vectors.pop(item_id, None)
    else:
        vectors[item_id] = vector
