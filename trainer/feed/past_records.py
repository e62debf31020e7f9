"""Records of `sessions` that lie behind the trainer: a range is read again from the broker, in the merged order.

Source: docs/training.md, "Quarantine".
"""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeAlias

from stream.broker.offsets import beginning_offsets
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import ConfigError, SchemaError
from stream.schemas import session, topics
from stream.schemas.records import Record
from stream.schemas.session import Session, UnlinkedLine
from trainer.feed.batches import OrderedSession
from trainer.feed.merge import Cursor, Key

Place: TypeAlias = tuple[int, int]
"""Partition and offset of a record of `sessions`."""


class RawRecord(Protocol):
    """A record of the topic `sessions`."""

    @property
    def partition(self) -> int:
        """Partition number."""

    @property
    def offset(self) -> int:
        """Offset in the partition."""

    @property
    def value(self) -> bytes | None:
        """Raw value."""


class PastRecords(Protocol):
    """A source of records that were read before."""

    def read(self, first: Mapping[int, int], until: Mapping[int, int]) -> Iterable[RawRecord]:
        """Return the records from `first` to before `until` by partition, in order per partition.

        Raises:
            ConfigError: If retention has removed some of them.
        """

    def at(self, places: Iterable[Place]) -> Iterable[RawRecord]:
        """Return the records at these places; those that the log does not hold are missing."""


class KafkaPastRecords:
    """Past records from the broker, by a connection for each range."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def read(self, first: Mapping[int, int], until: Mapping[int, int]) -> list[Record]:
        """Return the records from `first` to before `until` by partition, in order per partition.

        Raises:
            ConfigError: If retention has removed some of them.
            BusError: If the broker does not bring them.
        """
        wanted = {(topics.SESSIONS, p): offset for p, offset in first.items() if until[p] > offset}
        found: list[Record] = []
        with Reader(self._broker, wanted) as reader:
            check_retained({pair[1]: offset for pair, offset in reader.beginnings().items()}, first, until)
            polls = reader.polls()
            while any(offset < until[pair[1]] for pair, offset in reader.positions().items()):
                records = next(polls)
                found += [record for record in records if record.offset < until[record.partition]]
                reader.pause(pair for pair, offset in reader.positions().items() if offset >= until[pair[1]])
        return found

    def at(self, places: Iterable[Place]) -> list[Record]:
        """Return the records at these places, partition by partition; those that the log does not hold are missing.

        Raises:
            BusError: If the broker does not bring them.
        """
        wanted = set(places)
        found: dict[Place, Record] = {}
        with Reader(self._broker, beginning_offsets(self._broker, [topics.SESSIONS])) as reader:
            beginnings, ends = reader.beginnings(), reader.ends()
            todo = {
                pair: sorted(offset for p, offset in wanted if p == pair[1] and first <= offset < ends[pair])
                for pair, first in beginnings.items()
            }
            polls = reader.polls()
            while todo := {pair: offsets for pair, offsets in todo.items() if offsets}:
                sought = {pair: offsets[0] for pair, offsets in todo.items()}
                # A seek gives up the fetch that is on its way.
                if sought != reader.positions():
                    reader.restart(sought)
                records = next(polls)
                found |= {(r.partition, r.offset): r for r in records if (r.partition, r.offset) in wanted}
                read = reader.positions()
                todo = {pair: [offset for offset in offsets if offset >= read[pair]] for pair, offsets in todo.items()}
        return [found[place] for place in sorted(found)]


def check_retained(beginnings: Mapping[int, int], first: Mapping[int, int], until: Mapping[int, int]) -> None:
    """Refuse a range that the log does not hold whole.

    Args:
        beginnings: Partition to the first offset of the log; partitions without a record of the range may be missing.
        first: Partition to the first offset of the range.
        until: Partition to the first offset behind it.

    Raises:
        ConfigError: If retention has removed some of it.
    """
    lost = [p for p, offset in first.items() if until[p] > offset and beginnings.get(p, 0) > offset]
    if lost:
        gone = ", ".join(f"{first[p]} to {min(beginnings[p], until[p]) - 1} of partition {p}" for p in lost)
        raise ConfigError(f"retention has removed offsets {gone} of {topics.SESSIONS}")


def in_order(records: Iterable[RawRecord], cursors: Mapping[int, Cursor]) -> list[OrderedSession]:
    """Return the sessions among the records of a range in the merged order, as they were ordered the first time.

    Args:
        records: Records of the range, in order per partition.
        cursors: Partition to its cursor at the start of the range.
    """
    watermarks = {partition: cursor.watermark_ts for partition, cursor in cursors.items()}
    found: list[OrderedSession] = []
    for record in records:
        try:
            content = session.decode(record.value or b"")
        except SchemaError:
            # It was counted when it was read the first time.
            continue
        if isinstance(content, UnlinkedLine):
            continue
        partition = record.partition
        watermarks[partition] = max(watermarks[partition], content.watermark_ts)
        if isinstance(content, Session):
            found.append(OrderedSession(Key(watermarks[partition], partition, record.offset), content))
    return sorted(found, key=lambda each: each.key)
