"""Fixtures that start real servers; each says in its own module what it promises."""

from tests.harness.kafka import fresh_kafka, kafka_broker, kafka_home, memory_broker
from tests.harness.postgres import postgres_url

__all__ = ["fresh_kafka", "kafka_broker", "kafka_home", "memory_broker", "postgres_url"]
