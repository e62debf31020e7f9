"""Readers that seek to given positions. They join no group and commit nothing: the caller stores its positions."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, Self

from kafka import TopicPartition
from kafka.errors import KafkaError

from stream.broker.connection import Partition, by_pair, consumer, explain
from stream.broker.offsets import beginning_offsets
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas.records import Record

# A trickle of records arrives in batches, at most `fetch_max_wait_ms` late: a fetch costs about as much for one record
# as for a hundred.
_FETCH_LEAST_BYTES = 64 << 10
_POLL_MS = 500
# One minute of polls.
_MAX_EMPTY_POLLS = 120


class Reader:
    """A reader of assigned partitions from given positions."""

    def __init__(
        self,
        broker: Broker,
        positions: Mapping[Partition, int],
        *,
        max_records: int = 2_000,
        isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
    ) -> None:
        """Assign the partitions in `positions` and seek to the offset of each.

        Args:
            broker: Broker of the topics.
            positions: Offset of the first record of each partition.
            max_records: Most records of one poll.
            isolation: Whether records of open and aborted transactions are left out, and `ends` stops before them.

        Raises:
            BusError: If the broker is unreachable or refused.
        """
        self._broker = broker
        self._consumer = consumer(
            broker, max_poll_records=max_records, isolation_level=isolation, fetch_min_bytes=_FETCH_LEAST_BYTES
        )
        self.restart(positions)

    def restart(self, positions: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets, and no others."""
        self._consumer.assign([TopicPartition(topic, partition) for topic, partition in positions])
        for (topic, partition), offset in positions.items():
            self._consumer.seek(TopicPartition(topic, partition), offset)

    def poll(self, timeout_ms: int = _POLL_MS) -> list[Record]:
        """Return the next records, in order per partition.

        Raises:
            BusError: If a position lies outside of the log, or the broker refused.
        """
        try:
            polled = self._consumer.poll(timeout_ms=timeout_ms)
        except KafkaError as error:
            raise explain(error, self._broker, "poll") from error
        return [record for records in polled.values() for record in records]

    def polls(self) -> Iterator[list[Record]]:
        """Yield the records of one poll after the other, to a caller that stops when it has the ones it knows of.

        Raises:
            BusError: If the broker brings none for a minute, or as `poll`.
        """
        num_empty = 0
        while num_empty < _MAX_EMPTY_POLLS:
            records = self.poll()
            num_empty = 0 if records else num_empty + 1
            yield records
        places = ", ".join(f"{topic}-{number} offset {at}" for (topic, number), at in self.positions().items())
        raise BusError(f"no record for {_MAX_EMPTY_POLLS * _POLL_MS // 1_000} s, expected more at {places}")

    def read_to(self, ends: Mapping[Partition, int]) -> Iterator[Record]:
        """Yield records until each partition has been read to its end, those of the last poll behind it too.

        Raises:
            BusError: As `polls`.
        """
        polls = self.polls()
        # Positions decide, not the offsets of records: compaction and transaction markers leave holes.
        while any(offset < ends[pair] for pair, offset in self.positions().items()):
            yield from next(polls)

    def positions(self) -> dict[Partition, int]:
        """Return the offset of the next fetch of each assigned partition.

        It reaches the end of the log also where a transaction marker or an aborted record, which `poll` does not
        return, is the newest entry.
        """
        return by_pair({tp: self._consumer.position(tp) for tp in self._consumer.assignment()})

    def ends(self) -> dict[Partition, int]:
        """Return the end of each assigned partition, up to which records can be read.

        Raises:
            BusError: If the broker is unreachable.
        """
        try:
            found = self._consumer.end_offsets(list(self._consumer.assignment()))
        except KafkaError as error:
            raise explain(error, self._broker, "end offsets") from error
        return by_pair(found)

    def beginnings(self) -> dict[Partition, int]:
        """Return the first offset of each assigned partition.

        Raises:
            BusError: If the broker is unreachable.
        """
        try:
            found = self._consumer.beginning_offsets(list(self._consumer.assignment()))
        except KafkaError as error:
            raise explain(error, self._broker, "beginning offsets") from error
        return by_pair(found)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop fetching these partitions until `resume`."""
        self._consumer.pause(*(TopicPartition(*pair) for pair in partitions))

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch these partitions again."""
        self._consumer.resume(*(TopicPartition(*pair) for pair in partitions))

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_to_end(broker: Broker, name: str) -> Iterator[Record]:
    """Yield every record of a topic up to its end at the time of the first one, in order per partition.

    Raises:
        BusError: If the topic does not exist, or the broker is unreachable, refuses, or brings no record for a minute.
    """
    with Reader(broker, beginning_offsets(broker, [name]), max_records=5_000) as reader:
        ends = reader.ends()
        yield from (record for record in reader.read_to(ends) if record.offset < ends[record.topic, record.partition])
