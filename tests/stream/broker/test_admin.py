"""Topics with their settings, on a real broker."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from stream.broker.admin import (
    correct_settings,
    create_topics,
    delete_topics,
    partition_counts,
    warn_of_wrong_settings,
    wrong_settings_of,
)
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.join.settings import JoinSettings
from stream.schemas import topics
from tests.harness.kafka import PARTITIONS

RETENTION_MS = JoinSettings().retention_ms


@pytest.mark.kafka
def test_topics_have_their_counts_and_a_second_call_creates_none(fresh_kafka: Broker) -> None:
    counts = partition_counts(fresh_kafka)

    assert counts == {topic.name: topics.partitions_of(topic, PARTITIONS) for topic in topics.ALL}
    assert create_topics(fresh_kafka, PARTITIONS) == []


@pytest.mark.kafka
def test_several_processes_may_create_topics_at_once(kafka_broker: Broker) -> None:
    delete_topics(kafka_broker)
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda _: create_topics(kafka_broker, PARTITIONS), range(4)))
    assert {name for names in created for name in names} == {topic.name for topic in topics.ALL}
    assert len(partition_counts(kafka_broker)) == len(topics.ALL)


@pytest.mark.kafka
def test_another_partition_count_is_refused(kafka_broker: Broker) -> None:
    with pytest.raises(ConfigError, match=r"has 4 partitions, kafka\.partitions asks for 5"):
        create_topics(kafka_broker, PARTITIONS + 1)


@pytest.mark.kafka
def test_settings_that_results_rest_on_are_corrected_and_others_stay(fresh_kafka: Broker) -> None:
    """As topics of another program, or of an earlier release, may have them."""
    assert correct_settings(fresh_kafka, retention_ms=RETENTION_MS) == []
    _set(fresh_kafka, topics.CLICKS, {"compression.type": "snappy", "retention.ms": "60000"})
    _set(fresh_kafka, topics.IMPRESSIONS, {"cleanup.policy": "compact", "retention.ms": "8640000000"})
    _set(fresh_kafka, topics.HOT_CHANGELOG, {"cleanup.policy": "delete"})
    _set(fresh_kafka, topics.CONVERSIONS, {"retention.bytes": "1048576"})
    _set(fresh_kafka, topics.SESSIONS, {"retention.bytes": "2097152"})
    found = correct_settings(fresh_kafka, retention_ms=RETENTION_MS)
    assert {(c.topic, c.setting, c.found, c.wanted) for c in found} == {
        (topics.CLICKS, "compression.type", "snappy", "uncompressed"),
        (topics.CLICKS, "retention.ms", "60000", str(RETENTION_MS)),
        (topics.IMPRESSIONS, "cleanup.policy", "compact", "delete"),
        (topics.HOT_CHANGELOG, "cleanup.policy", "delete", "compact"),
        (topics.CONVERSIONS, "retention.bytes", "1048576", "-1"),
        (topics.SESSIONS, "retention.bytes", "2097152", "-1"),
    }
    assert {c.loss for c in found} == {
        "",
        "records older than 0.01667 h may be lost already",
        "older records of a key may be lost already",
        "of each partition, all but the newest 1048576 bytes may be lost already",
        "of each partition, all but the newest 2097152 bytes may be lost already",
    }
    _wait_for(fresh_kafka, topics.CLICKS, {"compression.type": "uncompressed", "retention.ms": str(RETENTION_MS)})
    _wait_for(fresh_kafka, topics.IMPRESSIONS, {"cleanup.policy": "delete"})
    _wait_for(fresh_kafka, topics.HOT_CHANGELOG, {"cleanup.policy": "compact"})
    _wait_for(fresh_kafka, topics.CONVERSIONS, {"retention.bytes": "-1"})
    _wait_for(fresh_kafka, topics.SESSIONS, {"retention.bytes": "-1"})
    assert _get(fresh_kafka, topics.IMPRESSIONS, "retention.ms") == "8640000000", "never lowered"
    assert correct_settings(fresh_kafka, retention_ms=RETENTION_MS) == []


@pytest.mark.kafka
def test_a_worker_that_starts_names_the_settings_that_lose_records(
    fresh_kafka: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> list[str]:
        # The Kafka client warns on its own when the machine is slow.
        return [record.getMessage() for record in caplog.records if record.name == "stream.broker.admin"]

    warn_of_wrong_settings(fresh_kafka, retention_ms=RETENTION_MS)
    assert warnings() == []
    _set(fresh_kafka, topics.CLICKS, {"cleanup.policy": "compact"})
    _wait_for(fresh_kafka, topics.CLICKS, {"cleanup.policy": "compact"})
    warn_of_wrong_settings(fresh_kafka, retention_ms=RETENTION_MS)
    assert warnings() == [
        "topic clicks has cleanup.policy = compact instead of delete (older records of a key may be lost already);"
        " correct the topics by: shelfwise kafka topics"
    ]
    correct_settings(fresh_kafka, retention_ms=RETENTION_MS)
    _wait_for(fresh_kafka, topics.CLICKS, {"cleanup.policy": "delete"})


def test_a_broker_that_does_not_tell_its_settings_is_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client would try for half a minute.
    monkeypatch.setitem(KafkaAdminClient.DEFAULT_CONFIG, "bootstrap_timeout_ms", 300)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    warn_of_wrong_settings(Broker(bootstrap=f"127.0.0.1:{port}"), retention_ms=RETENTION_MS)
    assert [message.split(":")[0] for message in caplog.messages if "settings" in message] == [
        "the settings of the topics were not checked"
    ]


@pytest.mark.parametrize(
    ("num_brokers", "replicas", "in_sync", "wrong"),
    [
        (1, 1, 1, []),
        (2, 2, 1, []),
        (3, 3, 2, []),
        (3, 3, 3, []),
        (5, 5, 2, []),
        (3, 3, 1, [("min.insync.replicas", "1", "2", True)]),
        (3, 1, 1, [("replication.factor", "1", "3", False)]),
        (3, 2, 3, [("min.insync.replicas", "3", "1", True), ("replication.factor", "2", "3", False)]),
    ],
)
def test_replicas_on_a_cluster_are_part_of_the_settings(
    num_brokers: int, replicas: int, in_sync: int, wrong: list[tuple[str, str, str, bool]]
) -> None:
    topic = topics.ALL[0]
    found = {**topic.config, "min.insync.replicas": str(in_sync)}
    corrections = wrong_settings_of(topic, found, replicas=replicas, num_brokers=num_brokers, retention_ms=RETENTION_MS)
    assert [(each.setting, each.found, each.wanted, each.is_possible) for each in corrections] == wrong


def test_unlimited_retention_stays() -> None:
    topic = topics.ALL[0]
    found = {**topic.config, "retention.ms": "-1", "min.insync.replicas": "1"}
    assert wrong_settings_of(topic, found, replicas=1, num_brokers=1, retention_ms=RETENTION_MS) == []


@pytest.mark.parametrize(("found_ms", "wanted"), [("-1", []), ("604800000", ["-1"]), (str(2 * RETENTION_MS), ["-1"])])
def test_a_topic_that_keeps_its_records_for_ever_is_never_limited(found_ms: str, wanted: list[str]) -> None:
    (topic,) = (each for each in topics.ALL if each.name == topics.ANNOTATIONS)
    found = {**topic.config, "retention.ms": found_ms, "min.insync.replicas": "1"}
    corrections = wrong_settings_of(topic, found, replicas=1, num_brokers=1, retention_ms=RETENTION_MS)
    assert [(each.setting, each.wanted) for each in corrections] == [("retention.ms", value) for value in wanted]


def test_a_memory_broker_has_no_settings_to_correct(memory_broker: Broker) -> None:
    assert correct_settings(memory_broker, retention_ms=RETENTION_MS) == []


def _set(broker: Broker, topic: str, values: dict[str, str]) -> None:
    admin = KafkaAdminClient(**broker.client_config())
    answer = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, values)])
    assert answer == {"topic": {topic: "OK"}}
    admin.close()
    _wait_for(broker, topic, values)


def _wait_for(broker: Broker, topic: str, values: dict[str, str]) -> None:
    """Wait until the broker shows settings that it has accepted: it applies them a moment later."""
    deadline = time.monotonic() + 30
    while (found := {name: _get(broker, topic, name) for name in values}) != values:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def _get(broker: Broker, topic: str, name: str) -> str:
    admin = KafkaAdminClient(**broker.client_config())
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    admin.close()
    return str(found["topic"][topic][name]["value"])
