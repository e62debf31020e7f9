"""The item catalogue: a replica of the compacted topic `items`, with its vectors decoded once.

A catalogue honours one vector space per modality: a vector of another space, or of another width, counts as missing.
Without a name, the space is the one that most items have, until a reader of the vectors keeps one. Applying the same
records again changes nothing.
"""

import logging
import threading
from collections.abc import Container, Iterable, Iterator, Mapping

import msgspec

from stream.broker.offsets import beginning_offsets
from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.errors import ArtifactError
from stream.replicas.vectors import ModalityVectors, Vector
from stream.schemas import topics
from stream.schemas.events import Item, encode
from stream.schemas.records import Record

_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(Item)


class Catalogue(Mapping[str, Item]):
    """Item id to item, with `image` and `text` vectors as float16 arrays.

    Attributes:
        positions: Next offset per (topic, partition) of the records applied, to follow the topic from.
        num_rejected: Records that could not be decoded, and were left out.

    Guarantees: one writer and many readers may use it from several threads.
    """

    def __init__(
        self, items: Iterable[Item] = (), *, image_space: str | None = None, text_space: str | None = None
    ) -> None:
        self._items: dict[str, Item] = {}
        self._image = ModalityVectors(image_space, is_kept=image_space is not None)
        self._text = ModalityVectors(text_space, is_kept=text_space is not None)
        # Other threads may keep a space while the one that follows the topic applies records.
        self._lock = threading.Lock()
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

    @property
    def image_space(self) -> str | None:
        """Name of the image vector space, None without an image vector."""
        return self._image.space

    @property
    def text_space(self) -> str | None:
        """Name of the text vector space, None without a text vector."""
        return self._text.space

    @property
    def spaces(self) -> tuple[str | None, str | None]:
        """Names of the vector spaces of images and of texts."""
        return self.image_space, self.text_space

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
        with self._lock:
            # Vectors first: a reader in another thread that sees the item also sees them.
            image_is_rarer = self._image.put(item.item_id, item.image_vec, item.image_model)
            text_is_rarer = self._text.put(item.item_id, item.text_vec, item.text_model)
            self._items[item.item_id] = item
            if image_is_rarer or text_is_rarer:
                self._change_spaces(
                    item.image_model if image_is_rarer else self.image_space,
                    item.text_model if text_is_rarer else self.text_space,
                )

    def remove(self, item_id: str) -> None:
        """Forget one item, as its tombstone asks; an unknown one is no fault."""
        with self._lock:
            self._items.pop(item_id, None)
            self._image.remove(item_id)
            self._text.remove(item_id)

    def keep_spaces(self, image_space: str | None, text_space: str | None) -> None:
        """Take the vector spaces that a model learns or learned in, and stay with them; None leaves that to others.

        Raises:
            ArtifactError: If others are kept, or more items have vectors of another space: the message names both.
                Then nothing has changed.
        """
        with self._lock:
            for name, vectors, space in (("image", self._image, image_space), ("text", self._text, text_space)):
                if (why := vectors.why_not(space)) is not None:
                    raise ArtifactError(f"{name} vectors: {why}; another vector space needs a lineage of its own")
            wanted = image_space or self.image_space, text_space or self.text_space
            if wanted != self.spaces:
                self._change_spaces(*wanted)
            if image_space is not None:
                self._image.keep()
            if text_space is not None:
                self._text.keep()

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

    def _change_spaces(self, image_space: str | None, text_space: str | None) -> None:
        """Decode all items anew, in these spaces."""
        items = self._items.values()
        if image_space != self.image_space:
            entries = ((item.item_id, item.image_vec, item.image_model) for item in items)
            self._image = self._image.in_space(image_space, entries)
        if text_space != self.text_space:
            entries = ((item.item_id, item.text_vec, item.text_model) for item in items)
            self._text = self._text.in_space(text_space, entries)
        # Readers that keep what they read of an item know by the record that it is another one.
        for item_id, item in self._items.items():
            self._items[item_id] = msgspec.structs.replace(item)


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
