"""Fixtures that start real servers; each says in its own module what it promises."""

from tests.harness.kafka import fresh_kafka, kafka_broker, kafka_home, memory_broker
from tests.harness.mortal import emptied_kafka, mortal_kafka
from tests.harness.postgres import postgres_url

__all__ = [
    "emptied_kafka",
    "fresh_kafka",
    "kafka_broker",
    "kafka_home",
    "memory_broker",
    "mortal_kafka",
    "postgres_url",
]
