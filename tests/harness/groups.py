"""Committed offsets of consumer groups."""

import time
from collections.abc import Collection

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

from stream.broker.settings import Broker


def committed_offsets(broker: Broker, group: str, names: Collection[str]) -> dict[tuple[str, int], int]:
    """Return the offsets that a group has committed on the named topics, without partitions that have none."""
    admin = KafkaAdminClient(**broker.client_config())
    try:
        described = admin.describe_topics()
        # Named one by one: the memory broker does not answer a request for all.
        partitions = [
            TopicPartition(topic["name"], number)
            for topic in described
            if topic["name"] in names
            for number in range(len(topic["partitions"]))
        ]
        deadline = time.monotonic() + 30
        while True:
            try:
                found = admin.list_group_offsets({group: partitions})
                break
            except (CoordinatorNotAvailableError, NotCoordinatorError, CoordinatorLoadInProgressError):
                # A young broker creates its offsets topic when the first group asks for it.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    finally:
        admin.close()
    return {(tp.topic, tp.partition): at.offset for tp, at in found.get(group, {}).items() if at.offset >= 0}
