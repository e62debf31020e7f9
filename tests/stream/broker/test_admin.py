"""Topics with their settings, on a real broker."""

import time

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from stream.broker.admin import correct_settings, create_topics, partition_counts
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.schemas import topics
from tests.harness.kafka import PARTITIONS


@pytest.mark.kafka
def test_topics_have_their_counts_and_a_second_call_creates_none(fresh_kafka: Broker) -> None:
    counts = partition_counts(fresh_kafka)

    assert counts == {topic.name: topics.partitions_of(topic, PARTITIONS) for topic in topics.ALL}
    assert create_topics(fresh_kafka, PARTITIONS) == []


@pytest.mark.kafka
def test_another_partition_count_is_refused(kafka_broker: Broker) -> None:
    with pytest.raises(ConfigError, match=r"has 4 partitions, kafka\.partitions asks for 5"):
        create_topics(kafka_broker, PARTITIONS + 1)


@pytest.mark.kafka
def test_settings_that_results_rest_on_are_corrected_and_others_stay(fresh_kafka: Broker) -> None:
    """As topics of another program, or of an earlier release, may have them."""
    assert correct_settings(fresh_kafka) == []
    _set(fresh_kafka, topics.CLICKS, {"compression.type": "snappy", "retention.ms": "3600000"})
    _set(fresh_kafka, topics.HOT_CHANGELOG, {"cleanup.policy": "delete"})
    found = correct_settings(fresh_kafka)
    assert {(c.topic, c.setting, c.found, c.wanted) for c in found} == {
        (topics.CLICKS, "compression.type", "snappy", "uncompressed"),
        (topics.HOT_CHANGELOG, "cleanup.policy", "delete", "compact"),
    }
    _wait_for(fresh_kafka, topics.CLICKS, {"compression.type": "uncompressed"})
    _wait_for(fresh_kafka, topics.HOT_CHANGELOG, {"cleanup.policy": "compact"})
    assert _get(fresh_kafka, topics.CLICKS, "retention.ms") == "3600000", "how long is up to who runs it"
    assert correct_settings(fresh_kafka) == []


def test_a_memory_broker_has_no_settings_to_correct(memory_broker: Broker) -> None:
    assert correct_settings(memory_broker) == []


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
