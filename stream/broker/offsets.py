"""Offsets of topics: where their logs begin and end, and the times of single records."""

import time
from collections.abc import Mapping, Sequence

from kafka import TopicPartition
from kafka.errors import KafkaError

from stream.broker.connection import Partition, by_pair, consumer, explain, partitions_of
from stream.broker.settings import Broker
from stream.errors import BusError


def beginning_offsets(broker: Broker, names: Sequence[str]) -> dict[Partition, int]:
    """Return the first offset of every partition of the named topics.

    Raises:
        BusError: If a topic does not exist, or the broker is unreachable or refused.
    """
    return _offsets(broker, names, end=False)


def end_offsets(broker: Broker, names: Sequence[str]) -> dict[Partition, int]:
    """Return the end of every partition of the named topics, up to which records can be read.

    An open transaction holds it back, and a transaction marker may be the last entry before it.

    Raises:
        BusError: If a topic does not exist, or the broker is unreachable or refused.
    """
    return _offsets(broker, names, end=True)


def append_times(
    broker: Broker, positions: Mapping[Partition, int], timeout_s: float = 30.0
) -> dict[Partition, int | None]:
    """Return the timestamps of the records at the given offsets, None if the log has no record at an offset.

    Raises:
        BusError: If an offset lies outside of the log, or the broker is unreachable.
    """
    if not positions:
        return {}
    # One batch per partition, the least that a broker returns.
    opened = consumer(broker, max_partition_fetch_bytes=1)
    found: dict[Partition, int | None] = {}
    deadline = time.monotonic() + timeout_s
    try:
        opened.assign([TopicPartition(*pair) for pair in positions])
        for pair, offset in positions.items():
            opened.seek(TopicPartition(*pair), offset)
        while len(found) < len(positions):
            if time.monotonic() > deadline:
                raise BusError(f"no record of {sorted(positions.keys() - found.keys())} within {timeout_s:.0f} s")
            for tp, records in opened.poll(timeout_ms=500).items():
                pair = (tp.topic, tp.partition)
                if records and pair not in found:
                    found[pair] = records[0].timestamp if records[0].offset == positions[pair] else None
                    opened.pause(tp)
    except KafkaError as error:
        raise explain(error, broker, "offsets") from error
    finally:
        opened.close()
    return found


def _offsets(broker: Broker, names: Sequence[str], *, end: bool) -> dict[Partition, int]:
    opened = consumer(broker)
    try:
        partitions = partitions_of(opened, broker, names)
        return by_pair(opened.end_offsets(partitions) if end else opened.beginning_offsets(partitions))
    except KafkaError as error:
        raise explain(error, broker, "offsets") from error
    finally:
        opened.close()
