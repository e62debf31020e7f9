"""Transactional producers, as upstream systems use them."""

from collections.abc import Iterable

from confluent_kafka import Producer

from stream.broker.settings import Broker


def begin(broker: Broker, name: str) -> Producer:
    """Return a producer with a transaction begun; it ends an open transaction of the same name."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": name})
    producer.init_transactions()
    producer.begin_transaction()
    return producer


def produce_to(producer: Producer, topic: str, partitions: Iterable[int], num_records: int) -> None:
    """Write records without a meaning to each partition, and wait until the broker has them."""
    for partition in partitions:
        for _ in range(num_records):
            producer.produce(topic, key=b"c", value=b"{}", partition=partition)
    assert producer.flush(30) == 0
