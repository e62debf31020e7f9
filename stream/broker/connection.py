"""Connections of kafka-python that read assigned partitions."""

from collections.abc import Mapping, Sequence

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from stream.broker import lenient_headers
from stream.broker.settings import Broker
from stream.errors import BusError

Partition = tuple[str, int]
"""Topic name and partition number."""

lenient_headers.install()


def consumer(broker: Broker, **config: object) -> KafkaConsumer:
    """Return a kafka-python consumer without a group, which never commits.

    Raises:
        BusError: If the broker is unreachable or refused.
    """
    try:
        return KafkaConsumer(
            **{
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "group_id": None,
                "fetch_max_wait_ms": 100,
                **broker.client_config(),
                **config,
            }
        )
    except KafkaError as error:
        raise BusError(f"broker {broker.bootstrap}: {error!r}") from error


def partitions_of(opened: KafkaConsumer, broker: Broker, names: Sequence[str]) -> list[TopicPartition]:
    """Return all partitions of the named topics.

    Raises:
        BusError: If a topic does not exist.
    """
    partitions: list[TopicPartition] = []
    for name in names:
        known = opened.partitions_for_topic(name)
        if not known:
            raise BusError(f"topic {name} does not exist on {broker.bootstrap}; run `shelfwise kafka topics`")
        partitions += [TopicPartition(name, number) for number in sorted(known)]
    return partitions


def by_pair(found: Mapping[TopicPartition, int]) -> dict[Partition, int]:
    """Return kafka-python's offsets with plain tuples as keys."""
    return {(tp.topic, tp.partition): offset for tp, offset in found.items()}
