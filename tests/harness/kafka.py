"""A real local Kafka and the memory broker for tests, with all topics at four partitions."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient, MemberToRemove

from deploy.kafka import jars
from deploy.kafka.local import LocalKafka
from deploy.kafka.memory import MemoryBroker
from stream.broker.admin import create_topics, delete_topics
from stream.broker.settings import Broker

PARTITIONS = 4
# One download serves tests and the demo.
JARS = Path(__file__).parents[2] / ".shelfwise" / "kafka" / "jars"


def fetch_jars() -> None:
    """Fetch Kafka's jars unless they are there; parallel test workers wait for the first."""
    if not jars.missing(JARS):
        return
    JARS.parent.mkdir(parents=True, exist_ok=True)
    with (JARS.parent / "jars.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jars.ensure(JARS, lambda _line: None)


def local_kafka(folder: Path) -> LocalKafka:
    """Return a local Kafka on free ports whose data lie in `folder`; it is not started."""
    fetch_jars()
    return LocalKafka(folder, port=0, heap_mb=384, jar_folder=JARS, report=lambda _line: None)


@pytest.fixture(scope="session")
def kafka_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder (`SHELFWISE_HOME`) under which the session's Kafka keeps its data."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def kafka_broker(kafka_home: Path) -> Iterator[Broker]:
    """A local Kafka of this test session; its topics may hold records of other tests."""
    kafka = local_kafka(kafka_home / "kafka")
    broker = kafka.start()
    try:
        create_topics(broker, PARTITIONS)
        yield broker
    finally:
        kafka.stop()


@pytest.fixture
def fresh_kafka(kafka_broker: Broker) -> Broker:
    """The session's Kafka with all topics empty."""
    empty(kafka_broker)
    return kafka_broker


def empty(broker: Broker) -> None:
    """Recreate all topics and delete consumer groups: the next worker would wait for killed members."""
    admin = KafkaAdminClient(**broker.client_config())
    try:
        names = [group["group_id"] for group in admin.list_groups()]
        for name, group in admin.describe_groups(names).items() if names else ():
            admin.remove_group_members(name, [MemberToRemove(member_id=each["member_id"]) for each in group["members"]])
        if names:
            admin.delete_groups(names)
    finally:
        admin.close()
    delete_topics(broker)
    create_topics(broker, PARTITIONS)


@pytest.fixture
def memory_broker() -> Iterator[Broker]:
    """A memory broker of this test alone."""
    with MemoryBroker(PARTITIONS) as hosted:
        yield hosted.broker
