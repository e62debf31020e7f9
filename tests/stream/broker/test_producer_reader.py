"""Producer, reader and offsets against a real Kafka and against the memory broker."""

import gc
import logging
from collections.abc import Iterator

import pytest

from deploy.kafka.memory import MemoryBroker
from stream.broker.admin import create_topics
from stream.broker.offsets import beginning_offsets, end_offsets
from stream.broker.producer import Producer
from stream.broker.reader import Reader, read_to_end
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas import topics
from tests.harness.kafka import PARTITIONS


@pytest.mark.kafka
def test_records_come_back_as_sent(fresh_kafka: Broker) -> None:
    with Producer(fresh_kafka) as producer:
        for number in range(100):
            producer.send(topics.CLICKS, key=b"c%d" % number, value=b"v%d" % number, headers=[("reason", b"why")])
        producer.flush()

    read = list(read_to_end(fresh_kafka, topics.CLICKS))

    assert sorted((r.key, r.value) for r in read) == sorted((b"c%d" % n, b"v%d" % n) for n in range(100))
    assert {tuple(r.headers) for r in read} == {(("reason", b"why"),)}
    assert sum(end_offsets(fresh_kafka, [topics.CLICKS]).values()) == 100
    assert set(beginning_offsets(fresh_kafka, [topics.CLICKS]).values()) == {0}


@pytest.mark.kafka
def test_a_producer_without_records_ends_without_an_error_in_the_log(
    fresh_kafka: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with Producer(fresh_kafka):
        pass
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.kafka
def test_records_carry_the_brokers_time(fresh_kafka: Broker) -> None:
    with Producer(fresh_kafka) as producer:
        for name in (topics.CLICKS, topics.SESSIONS):
            producer.send(name, key=b"c", value=b"v", timestamp_ms=1_000)

    assert next(read_to_end(fresh_kafka, topics.CLICKS)).timestamp > 1_000
    assert next(read_to_end(fresh_kafka, topics.SESSIONS)).timestamp > 1_000


@pytest.mark.kafka
@pytest.mark.parametrize(("key", "hashed"), [(b"21", -973932308), (b"foobar", -790332482)])
def test_keys_go_where_murmur2_says(fresh_kafka: Broker, key: bytes, hashed: int) -> None:
    with Producer(fresh_kafka) as producer:
        producer.send(topics.CLICKS, key=key, value=b"v")

    assert next(read_to_end(fresh_kafka, topics.CLICKS)).partition == (hashed & 0x7FFFFFFF) % PARTITIONS


@pytest.mark.kafka
def test_a_reader_starts_where_it_is_told(fresh_kafka: Broker) -> None:
    with Producer(fresh_kafka) as producer:
        for number in range(10):
            producer.send(topics.TICKS, key=b"0", value=b"%d" % number, partition=0)

    with Reader(fresh_kafka, {(topics.TICKS, 0): 7}) as reader:
        seen: list[bytes | None] = []
        while len(seen) < 3:
            seen += [record.value for record in reader.poll()]

    assert seen == [b"7", b"8", b"9"]


@pytest.mark.kafka
def test_a_position_outside_of_the_log_is_an_error(fresh_kafka: Broker) -> None:
    def read() -> None:
        with Reader(fresh_kafka, {(topics.TICKS, 0): 5}) as reader:
            for _ in range(300):
                reader.poll(timeout_ms=200)

    with pytest.raises(BusError, match="poll"):
        read()


@pytest.mark.kafka
def test_a_record_beyond_the_brokers_limit_fails_the_flush(fresh_kafka: Broker) -> None:
    def send() -> None:
        with Producer(fresh_kafka) as producer:
            producer.send(topics.CLICKS, key=b"c", value=b"x" * 2_000_000)

    with pytest.raises(BusError, match="clicks"):
        send()


@pytest.mark.kafka
def test_a_missing_topic_names_the_remedy(kafka_broker: Broker) -> None:
    with pytest.raises(BusError, match="shelfwise kafka topics"):
        end_offsets(kafka_broker, ["nowhere"])


def test_memory_broker_has_all_topics_and_keeps_records(memory_broker: Broker) -> None:
    assert create_topics(memory_broker, PARTITIONS) == []
    with Producer(memory_broker) as producer:
        for number in range(50):
            producer.send(topics.CLICKS, key=b"c%d" % number, value=b"v")

    assert len(list(read_to_end(memory_broker, topics.CLICKS))) == 50


@pytest.fixture
def mortal_broker() -> Iterator[MemoryBroker]:
    """A memory broker that a test may close."""
    with MemoryBroker(PARTITIONS) as hosted:
        yield hosted


def send(producer: Producer, num_records: int) -> None:
    for number in range(num_records):
        producer.send(topics.CLICKS, key=b"c%d" % number, value=b"v")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_that_goes_away_is_one_error_with_the_count_of_acknowledged_records(
    mortal_broker: MemoryBroker,
) -> None:
    def produce() -> None:
        with Producer(mortal_broker.broker, request_timeout_ms=500) as producer:
            send(producer, 10)
            producer.flush()
            mortal_broker.close()
            send(producer, 5)

    with pytest.raises(BusError, match=r"10 records were acknowledged, 5 not: KafkaTimeoutError"):
        produce()
    gc.collect()


def test_an_error_on_its_way_is_the_one_that_the_caller_sees(mortal_broker: MemoryBroker) -> None:
    def fail() -> None:
        with Producer(mortal_broker.broker, request_timeout_ms=500) as producer:
            send(producer, 1)
            mortal_broker.close()
            raise KeyError("the first")

    with pytest.raises(KeyError, match="the first"):
        fail()


def test_a_producer_knows_the_end_of_what_it_wrote(memory_broker: Broker) -> None:
    with Producer(memory_broker) as producer:
        send(producer, 20)
        producer.flush()
        assert producer.num_acknowledged == 20
        written = {pair: end for pair, end in end_offsets(memory_broker, [topics.CLICKS]).items() if end}
        assert producer.ends == written
