"""Administration of topics: creation, settings and partition counts."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    NotCoordinatorError,
    TopicAlreadyExistsError,
)

from stream.broker.connection import connected, explain, refuse_hidden
from stream.broker.settings import Broker
from stream.errors import AccessError, BusError, ConfigError
from stream.schemas import topics
from stream.schemas.times import HOUR_MS

_CLEANUP = "cleanup.policy"
_RETENTION = "retention.ms"
_MOST_BYTES = "retention.bytes"
_IN_SYNC = "min.insync.replicas"
_REPLICAS = "replication.factor"
_REPLICAS_ON_A_CLUSTER = 3
_CREATE_S = 30.0
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
            _create(admin, [wanted[name] for name in missing], partitions)
            counts = _counts_of_all(admin, broker, wanted)
    for name, topic in wanted.items():
        expected = topics.partitions_of(topic, partitions)
        if counts.get(name) != expected:
            raise ConfigError(f"topic {name} has {counts.get(name)} partitions, kafka.partitions asks for {expected}")
    return missing


def _create(admin: KafkaAdminClient, missing: Sequence[topics.Topic], partitions: int) -> None:
    num_brokers = _num_brokers(admin)
    replicas = _wanted_replicas(num_brokers)
    try:
        admin.create_topics(
            {
                topic.name: {
                    "num_partitions": topics.partitions_of(topic, partitions),
                    "replication_factor": replicas if num_brokers > 1 else -1,
                    "configs": dict(topic.config) | _in_sync(replicas),
                }
                for topic in missing
            },
            wait_for_metadata=True,
        )
    except TopicAlreadyExistsError:
        # Another process was faster; the broker has created the others of the request.
        _log.info("another process creates topics at the same time")


def _counts_of_all(admin: KafkaAdminClient, broker: Broker, names: Collection[str]) -> dict[str, int]:
    """Return the partition counts when the broker shows all topics: it shows a new one a moment later."""
    deadline = time.monotonic() + _CREATE_S
    while len(counts := _partition_counts(admin, broker, names)) < len(names) and time.monotonic() < deadline:
        time.sleep(0.05)
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Setting of a topic with the value that was found and the one that results depend on.

    Attributes:
        topic: Name of the topic.
        setting: Name of the setting.
        found: Value on the broker.
        wanted: Value that results depend on.
    """

    topic: str
    setting: str
    found: str
    wanted: str

    @property
    def is_possible(self) -> bool:
        """Return whether `correct_settings` can set the value: replicas are added by a reassignment only."""
        return self.setting != _REPLICAS

    def __str__(self) -> str:
        """Return what is wrong in words, with what may be lost by it."""
        loss = f" ({self.loss})" if self.loss else ""
        return f"{self.topic} has {self.setting} = {self.found} instead of {self.wanted}{loss}"

    @property
    def loss(self) -> str:
        """Return the records that may be lost by the setting already; empty if none."""
        if self.setting == _CLEANUP and self.wanted == "delete":
            return "older records of a key may be lost already"
        if self.setting == _RETENTION:
            return f"records older than {int(self.found) / HOUR_MS:.4g} h may be lost already"
        if self.setting == _MOST_BYTES:
            return f"of each partition, all but the newest {self.found} bytes may be lost already"
        return ""


def correct_settings(broker: Broker, *, retention_ms: int) -> list[Correction]:
    """Correct the settings of existing topics that results depend on, and return the changes.

    Retention and the number of replicas that must be in sync are raised and never lowered. Existing records stay as
    they are. A memory broker has no settings.

    Args:
        broker: Broker of the topics.
        retention_ms: Time for which topics must keep records.

    Raises:
        ConfigError: If a topic has too few replicas, after everything else is corrected.
        BusError: If the broker is unreachable or refused.
    """
    if broker.memory:
        return []
    with _admin(broker, "settings of topics") as admin:
        wrong = _wrong_settings(admin, broker, retention_ms)
        corrections = [correction for correction in wrong if correction.is_possible]
        for name in sorted({correction.topic for correction in corrections}):
            wanted = {each.setting: each.wanted for each in corrections if each.topic == name}
            answer = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, wanted)])
            if answer["topic"][name] != "OK":
                raise BusError(f"topic {name}: the broker does not set {wanted}: {answer['topic'][name]}")
    impossible = [each for each in wrong if not each.is_possible]
    if impossible:
        raise ConfigError(
            "; ".join(f"topic {each}" for each in impossible) + "; add replicas with kafka-reassign-partitions"
        )
    return corrections


def wrong_settings(broker: Broker, *, retention_ms: int) -> list[Correction]:
    """Return the settings of existing topics that `correct_settings` would change or refuse.

    Args:
        broker: Broker of the topics.
        retention_ms: Time for which topics must keep records.

    Raises:
        AccessError: If no ACL allows the user to describe the settings of a topic.
        BusError: If the broker is unreachable or refused.
    """
    if broker.memory:
        return []
    with _admin(broker, "settings of topics") as admin:
        return _wrong_settings(admin, broker, retention_ms)


def warn_of_wrong_settings(broker: Broker, *, retention_ms: int) -> None:
    """Log each setting that `wrong_settings` finds; a user who may not read settings gets one line instead.

    Args:
        broker: Broker of the topics.
        retention_ms: Time for which topics must keep records.
    """
    try:
        wrong = wrong_settings(broker, retention_ms=retention_ms)
    except BusError as error:
        _log.warning("the settings of the topics were not checked: %s", error)
        return
    for each in wrong:
        _log.warning("topic %s; correct the topics by: shelfwise kafka topics", each)


def _wrong_settings(admin: KafkaAdminClient, broker: Broker, retention_ms: int) -> list[Correction]:
    described = _described(admin, broker, [topic.name for topic in topics.ALL])
    replicas = {
        name: min(len(part["replica_nodes"]) for part in topic["partitions"]) for name, topic in described.items()
    }
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in described]
    found = admin.describe_configs(resources, config_filter="all")["topic"] if resources else {}
    # Without the right to describe its settings, the broker shows the name of a topic and no settings.
    hidden = sorted(name for name in described if not found.get(name))
    if hidden:
        raise AccessError(f"no ACL allows the user to describe the settings of {', '.join(hidden)}")
    num_brokers = _num_brokers(admin)
    return [
        correction
        for topic in topics.ALL
        if topic.name in described
        for correction in wrong_settings_of(
            topic,
            {setting: str(entry["value"]) for setting, entry in found[topic.name].items()},
            replicas=replicas[topic.name],
            num_brokers=num_brokers,
            retention_ms=retention_ms,
        )
    ]


def wrong_settings_of(
    topic: topics.Topic, found: Mapping[str, str], *, replicas: int, num_brokers: int, retention_ms: int
) -> list[Correction]:
    """Return the settings of one topic that results depend on and that have another value.

    Args:
        topic: The topic with its settings.
        found: Settings on the broker.
        replicas: Replicas of the partition with the fewest.
        num_brokers: Brokers of the cluster.
        retention_ms: Time for which topics must keep records.
    """
    wanted = {name: value for name, value in topic.config.items() if name != _RETENTION and found[name] != value}
    if _RETENTION in topic.config and int(found[_RETENTION]) >= 0:
        asked_ms = int(topic.config[_RETENTION])
        if asked_ms < 0:
            wanted[_RETENTION] = str(asked_ms)
        elif int(found[_RETENTION]) < retention_ms:
            wanted[_RETENTION] = str(max(retention_ms, asked_ms))
    wanted_replicas = _wanted_replicas(num_brokers)
    in_sync = _in_sync(min(replicas, wanted_replicas)).get(_IN_SYNC)
    if in_sync is not None and int(found[_IN_SYNC]) < int(in_sync):
        wanted[_IN_SYNC] = in_sync
    elif int(found[_IN_SYNC]) > replicas:
        # No producer could write.
        wanted[_IN_SYNC] = str(max(1, replicas - 1))
    wrong = [
        Correction(topic=topic.name, setting=name, found=found[name], wanted=value) for name, value in wanted.items()
    ]
    if replicas < wanted_replicas:
        wrong.append(Correction(topic=topic.name, setting=_REPLICAS, found=str(replicas), wanted=str(wanted_replicas)))
    return wrong


def _wanted_replicas(num_brokers: int) -> int:
    return min(_REPLICAS_ON_A_CLUSTER, num_brokers)


def _in_sync(replicas: int) -> dict[str, str]:
    """Return the setting by which an acknowledged record outlives one broker, where writes can go on without one."""
    return {_IN_SYNC: str(replicas - 1)} if replicas > 2 else {}


def _num_brokers(admin: KafkaAdminClient) -> int:
    return len(admin.describe_cluster()["brokers"])


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


def _partition_counts(admin: KafkaAdminClient, broker: Broker, names: Collection[str]) -> dict[str, int]:
    return {name: len(topic["partitions"]) for name, topic in _described(admin, broker, names).items()}


def _described(admin: KafkaAdminClient, broker: Broker, names: Collection[str]) -> dict[str, Mapping[str, Any]]:
    # By name, as a list of all topics leaves out those that an ACL hides. A memory broker creates what it is asked for.
    described = admin.describe_topics(None if broker.memory else list(names))
    refuse_hidden(described, broker)
    return {topic["name"]: topic for topic in described if topic["name"] in names and not topic["error_code"]}


@contextmanager
def _admin(broker: Broker, action: str) -> Iterator[KafkaAdminClient]:
    admin = connected(KafkaAdminClient, broker)
    try:
        yield admin
    except KafkaError as error:
        raise explain(error, broker, action) from error
    finally:
        admin.close()
