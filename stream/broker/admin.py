"""Administration of topics: creation, settings and partition counts."""

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, KafkaError, NotCoordinatorError

from stream.broker.connection import connected, explain, refuse_hidden
from stream.broker.settings import Broker
from stream.errors import AccessError, BusError, ConfigError
from stream.schemas import topics

_DELETE_S = 30.0
_COORDINATOR_S = 15.0
_log = logging.getLogger(__name__)


def create_topics(broker: Broker, partitions: int) -> list[str]:
    """Create all missing topics with explicit settings, verify partition counts, and return the names created.

    A memory broker creates topics only when it starts; for it, only the counts are verified.

    Raises:
        ConfigError: If a topic exists with another partition count.
        AccessError: If no ACL allows the user to see or to create a topic.
        BusError: If the broker is unreachable or refused.
    """
    wanted = {topic.name: topic for topic in topics.ALL}
    with _admin(broker, "creation of topics") as admin:
        counts = _partition_counts(admin, broker, wanted)
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
            counts = _partition_counts(admin, broker, wanted)
    for name, topic in wanted.items():
        expected = topics.partitions_of(topic, partitions)
        if counts.get(name) != expected:
            raise ConfigError(f"topic {name} has {counts.get(name)} partitions, kafka.partitions asks for {expected}")
    return missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Setting of a topic with the value that was found and the one that results depend on.

    Attributes:
        topic: Name of the topic.
        setting: Name of the setting.
        found: Value on the broker.
        wanted: Value that `correct_settings` sets.
    """

    topic: str
    setting: str
    found: str
    wanted: str


def correct_settings(broker: Broker) -> list[Correction]:
    """Correct the settings of existing topics that results depend on, and return the changes.

    The retention time of a topic and its existing records stay as they are. A memory broker has no settings.

    Raises:
        BusError: If the broker is unreachable or refused.
    """
    if broker.memory:
        return []
    wanted = {topic.name: _fixed(topic) for topic in topics.ALL}
    with _admin(broker, "settings of topics") as admin:
        corrections = _wrong_settings(admin, broker)
        for name in {correction.topic for correction in corrections}:
            answer = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, wanted[name])])
            if answer["topic"][name] != "OK":
                raise BusError(f"topic {name}: the broker does not set {wanted[name]}: {answer['topic'][name]}")
    return corrections


def wrong_settings(broker: Broker) -> list[Correction]:
    """Return the settings of existing topics that `correct_settings` would change.

    Raises:
        BusError: If the broker is unreachable or refused.
    """
    if broker.memory:
        return []
    with _admin(broker, "settings of topics") as admin:
        return _wrong_settings(admin, broker)


def _wrong_settings(admin: KafkaAdminClient, broker: Broker) -> list[Correction]:
    existing = _partition_counts(admin, broker, [topic.name for topic in topics.ALL])
    wanted = {topic.name: _fixed(topic) for topic in topics.ALL if topic.name in existing}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
    found = admin.describe_configs(resources, config_filter="all")["topic"] if resources else {}
    return [
        Correction(topic=name, setting=setting, found=str(found[name][setting]["value"]), wanted=value)
        for name, settings in wanted.items()
        for setting, value in settings.items()
        if found[name][setting]["value"] != value
    ]


def delete_topics(broker: Broker) -> None:
    """Delete all topics of Shelfwise with their records, and wait until they are gone.

    Raises:
        BusError: If the broker is unreachable or refused, or a topic is still there after 30 s.
    """
    wanted = {topic.name for topic in topics.ALL}
    with _admin(broker, "deletion of topics") as admin:
        existing = sorted(_partition_counts(admin, broker, wanted))
        if existing:
            admin.delete_topics(existing)
        deadline = time.monotonic() + _DELETE_S
        while remaining := _partition_counts(admin, broker, wanted):
            if time.monotonic() > deadline:
                raise BusError(f"topics {', '.join(sorted(remaining))} are still there after {_DELETE_S:.0f} s")
            time.sleep(0.05)


def partition_counts(broker: Broker) -> dict[str, int]:
    """Return topic name to partition count of every topic of Shelfwise that exists.

    Raises:
        AccessError: If no ACL allows the user to see a topic.
        BusError: If the broker is unreachable or refused.
    """
    with _admin(broker, "list of topics") as admin:
        return _partition_counts(admin, broker, [topic.name for topic in topics.ALL])


def check_group(broker: Broker, group: str) -> None:
    """Ask for the committed offsets of a consumer group, which need the same permission as a member.

    aiokafka retries a refused group for ever. It also logs an error where the broker has no coordinator yet: a new
    broker creates the topic of committed offsets when the first group asks for it, which takes a moment.

    Raises:
        AccessError: If no ACL allows the user to use the group.
    """
    if broker.memory:
        return
    deadline = time.monotonic() + _COORDINATOR_S
    try:
        with _admin(broker, f"consumer group {group}") as admin:
            while not _has_coordinator(admin, group) and time.monotonic() < deadline:
                time.sleep(0.1)
    except AccessError:
        raise
    except BusError as error:
        # The worker itself waits for the broker.
        _log.info("%s", error)


def _has_coordinator(admin: KafkaAdminClient, group: str) -> bool:
    try:
        admin.list_group_offsets({group: [TopicPartition(topics.TICKS, 0)]})
    except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
        return False
    return True


def _fixed(topic: topics.Topic) -> dict[str, str]:
    return {name: value for name, value in topic.config.items() if name != "retention.ms"}


def _partition_counts(admin: KafkaAdminClient, broker: Broker, names: Collection[str]) -> dict[str, int]:
    # By name, as a list of all topics leaves out those that an ACL hides. A memory broker creates what it is asked for.
    described = admin.describe_topics(None if broker.memory else list(names))
    refuse_hidden(described, broker)
    return {
        topic["name"]: len(topic["partitions"])
        for topic in described
        if topic["name"] in names and not topic["error_code"]
    }


@contextmanager
def _admin(broker: Broker, action: str) -> Iterator[KafkaAdminClient]:
    admin = connected(KafkaAdminClient, broker)
    try:
        yield admin
    except KafkaError as error:
        raise explain(error, broker, action) from error
    finally:
        admin.close()
