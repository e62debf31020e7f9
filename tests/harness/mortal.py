"""A local Kafka that tests may kill."""

from collections.abc import Iterator

import pytest

from deploy.kafka.local import LocalKafka
from tests.harness.kafka import empty, local_kafka
from tests.harness.rounds import forget_sockets


@pytest.fixture(scope="module")
def mortal_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A broker of this test module alone, because its tests kill it."""
    kafka = local_kafka(tmp_path_factory.mktemp("mortal") / "kafka")
    kafka.start()
    try:
        yield kafka
    finally:
        kafka.stop()
        forget_sockets()


@pytest.fixture
def emptied_kafka(mortal_kafka: LocalKafka) -> LocalKafka:
    """The broker of this test module with all topics empty."""
    empty(mortal_kafka.broker)
    return mortal_kafka
