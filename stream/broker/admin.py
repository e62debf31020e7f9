"""Kafka's admin interface behind one door: topics with their settings, and what groups have committed.

Source: STREAM.md 1 and 2.3.
"""

import gc
import socket
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    NotCoordinatorError,
)

from stream.broker.settings import Broker
from stream.errors import BusError, ConfigError
from stream.schemas import topics


def answers(broker: Broker, timeout_ms: int = 2_000) -> bool:
    """Say whether the broker answers a metadata request."""
    host, _, port = broker.bootstrap.split(",")[0].rpartition(":")
    admin = None
    try:
        # Cheap and silent, where the client would log each refused connection of a broker that is still starting.
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        admin = KafkaAdminClient(**broker.client_config(), bootstrap_timeout_ms=timeout_ms)
    except (KafkaError, OSError):
        pass
    if admin is None:
        _collect_sockets()  # not above, where the exception still refers to them
        return False
    try:
        return bool(admin.describe_cluster()["brokers"])
    except (KafkaError, OSError):
        return False
    finally:
        admin.close()


def _collect_sockets() -> None:
    # A client whose constructor fails cannot be closed, and leaves its sockets to the garbage collector's warnings.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def create_topics(broker: Broker, partitions: int) -> list[str]:
    """Create all missing topics with explicit settings, verify partition counts, and return the names created.

    A memory broker creates topics only when it starts; there the counts are verified.

    Raises:
        ConfigError: If a topic exists with another partition count.
        BusError: If the broker is unreachable or refused.
    """
    wanted = {topic.name: topic for topic in topics.ALL}
    with _admin(broker) as admin:
        counts = _partition_counts(admin, wanted)
        missing = [] if broker.memory else [name for name in wanted if name not in counts]
        if missing:
            admin.create_topics(
                {
                    name: {
                        "num_partitions": topics.partitions_of(wanted[name], partitions),
                        "replication_factor": -1,
                        "configs": dict(wanted[name].config),
                    }
                    for name in missing
                },
                wait_for_metadata=True,
            )
            counts = _partition_counts(admin, wanted)
    for name, topic in wanted.items():
        expected = topics.partitions_of(topic, partitions)
        if counts.get(name) != expected:
            raise ConfigError(f"topic {name} has {counts.get(name)} partitions, kafka.partitions asks for {expected}")
    return missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Setting of a topic with the value that was found and the one that results rest on."""

    topic: str
    setting: str
    found: str
    wanted: str


def correct_settings(broker: Broker) -> list[Correction]:
    """Give existing topics the settings that results rest on, and return what was changed.

    How long a topic keeps its records is left to who runs it. Records that are there stay as they are. A memory broker
    has no settings.

    Raises:
        BusError: If the broker is unreachable, or refused.
    """
    if broker.memory:
        return []
    wanted = {topic.name: _fixed(topic) for topic in topics.ALL}
    with _admin(broker) as admin:
        corrections = _wrong_settings(admin)
        for name in {correction.topic for correction in corrections}:
            answer = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, wanted[name])])
            if answer["topic"][name] != "OK":
                raise BusError(f"topic {name}: the broker does not set {wanted[name]}: {answer['topic'][name]}")
    return corrections


def wrong_settings(broker: Broker) -> list[Correction]:
    """Return the settings of existing topics that `correct_settings` would change.

    Raises:
        BusError: If the broker is unreachable or refuses.
    """
    if broker.memory:
        return []
    with _admin(broker) as admin:
        return _wrong_settings(admin)


def _wrong_settings(admin: KafkaAdminClient) -> list[Correction]:
    existing = _partition_counts(admin, [topic.name for topic in topics.ALL])
    wanted = {topic.name: _fixed(topic) for topic in topics.ALL if topic.name in existing}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
    found = admin.describe_configs(resources, config_filter="all")["topic"] if resources else {}
    return [
        Correction(topic=name, setting=setting, found=str(found[name][setting]["value"]), wanted=value)
        for name, settings in wanted.items()
        for setting, value in settings.items()
        if found[name][setting]["value"] != value
    ]


def _fixed(topic: topics.Topic) -> dict[str, str]:
    return {name: value for name, value in topic.config.items() if name != "retention.ms"}


def delete_topics(broker: Broker) -> None:
    """Delete all topics of Shelfwise with their records, and wait until they are gone.

    Raises:
        BusError: If the broker is unreachable or refused, or a topic is still there after 30 s.
    """
    wanted = {topic.name for topic in topics.ALL}
    with _admin(broker) as admin:
        existing = sorted(_partition_counts(admin, wanted))
        if existing:
            admin.delete_topics(existing)
        deadline = time.monotonic() + 30
        while remaining := _partition_counts(admin, wanted):
            if time.monotonic() > deadline:
                raise BusError(f"topics {', '.join(sorted(remaining))} are still there after 30 s")
            time.sleep(0.05)


def partition_counts(broker: Broker) -> dict[str, int]:
    """Return topic name to partition count of every topic of Shelfwise that exists."""
    with _admin(broker) as admin:
        return _partition_counts(admin, [topic.name for topic in topics.ALL])


def committed_offsets(broker: Broker, group: str, names: Collection[str]) -> dict[tuple[str, int], int]:
    """Return what a consumer group has committed of the named topics, without partitions that it has not.

    Raises:
        BusError: If the broker is unreachable or refused.
    """
    with _admin(broker) as admin:
        counts = _partition_counts(admin, names)
        # Named one by one: the memory broker does not answer a question for all.
        partitions = [TopicPartition(name, number) for name, count in counts.items() for number in range(count)]
        deadline = time.monotonic() + 30
        while True:
            try:
                found = admin.list_group_offsets({group: partitions})
                break
            except (CoordinatorNotAvailableError, NotCoordinatorError, CoordinatorLoadInProgressError):
                # A young broker makes its offsets topic when the first group asks for it.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    positions = found.get(group, {})
    return {(tp.topic, tp.partition): at.offset for tp, at in positions.items() if at.offset >= 0}


def _partition_counts(admin: KafkaAdminClient, names: Collection[str]) -> dict[str, int]:
    described = admin.describe_topics()
    return {topic["name"]: len(topic["partitions"]) for topic in described if topic["name"] in names}


@contextmanager
def _admin(broker: Broker) -> Iterator[KafkaAdminClient]:
    try:
        admin = KafkaAdminClient(**broker.client_config())
    except KafkaError as error:
        raise BusError(f"broker {broker.bootstrap}: {error!r}") from error
    try:
        yield admin
    except KafkaError as error:
        raise BusError(f"broker {broker.bootstrap}: {error!r}") from error
    finally:
        admin.close()
