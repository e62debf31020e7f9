"""Vectors into the topic `items`: the newest record of each item again, with the vectors that a run made."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from stream.broker.producer import Producer
from stream.errors import ConfigError
from stream.replicas.catalogue import publish
from stream.schemas import topics
from stream.schemas.events import Item
from trainer.vectors.embed import Embedded
from trainer.vectors.vectors_file import MODALITIES, fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The items of a run after their publication.

    Attributes:
        num_published: Items that were sent with new vectors.
        num_unchanged: Items whose vectors the topic has already.
        unknown: Ids that the topic does not hold: a record needs a price, which vectors do not have.
    """

    num_published: int
    num_unchanged: int
    unknown: list[str]


def publish_vectors(
    producer: Producer, items: Mapping[str, Item], found: Embedded, *, now_ts: int, replaces_space: bool
) -> Published:
    """Send the items that get other vectors, and wait until all are acknowledged.

    A vector that the run did not make stays as it is.

    Args:
        producer: Where to.
        items: The records that the topic holds.
        found: The vectors.
        now_ts: Epoch milliseconds, the time of the update: trainers apply items by it.
        replaces_space: Whether vectors may replace those of another space.

    Raises:
        ConfigError: If the topic holds vectors of another space, and they are not to be replaced.
        BusError: If the broker did not acknowledge all records.
    """
    if not replaces_space:
        _check_spaces(items, found)
    changed, unknown, num_unchanged = [], [], 0
    for at, item_id in enumerate(found.item_ids):
        item = items.get(item_id)
        if item is None:
            unknown.append(item_id)
            continue
        fields: dict[str, object] = {}
        for name in MODALITIES:
            vector, space = fields_of(found.vectors.get(name), at)
            if vector is not None:
                fields |= {f"{name}_vec": vector, f"{name}_model": space}
        if all(getattr(item, name) == value for name, value in fields.items()):
            num_unchanged += 1
        else:
            changed.append(msgspec.structs.replace(item, updated_ts=max(now_ts, item.updated_ts), **fields))
    publish(producer, changed)
    producer.flush()
    return Published(num_published=len(changed), num_unchanged=num_unchanged, unknown=unknown)


def _check_spaces(items: Mapping[str, Item], found: Embedded) -> None:
    for name, vectors in found.vectors.items():
        if vectors.space is None:
            continue
        own = vectors.space.definition.name
        spaces = Counter(
            str(getattr(item, f"{name}_model")) for item in items.values() if getattr(item, f"{name}_vec") is not None
        )
        others = [(space, count) for space, count in spaces.most_common() if space != own]
        if others:
            space, count = others[0]
            raise ConfigError(
                f"topic {topics.ITEMS} holds {name} vectors of the space {space} ({count} items), and these are of "
                f"{own}: "
                f"lineages of {space} refuse them. Encode with the --space folder of that space, or publish with "
                "--replace-space and train new lineages"
            )
