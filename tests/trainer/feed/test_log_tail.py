"""The tail of a topic brings each record once; that of a missing topic is refused."""

import pytest

from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas import topics
from trainer.feed.log_tail import LogTail


def send(broker: Broker, *values: bytes) -> None:
    with Producer(broker) as producer:
        for value in values:
            producer.send(topics.ANNOTATIONS, key=b"k", value=value)


def test_each_call_brings_what_came_since_the_last_one_of_a_topic_that_exists(memory_broker: Broker) -> None:
    tail = LogTail(memory_broker, topics.ANNOTATIONS)
    try:
        assert list(tail.read()) == []
        send(memory_broker, b"1", b"2")
        assert [record.value for record in tail.read()] == [b"1", b"2"]
        send(memory_broker, b"3")
        assert [record.value for record in tail.read()] == [b"3"]
        assert list(tail.read()) == []
    finally:
        tail.close()
    with pytest.raises(BusError, match="missing"):
        LogTail(memory_broker, "missing")
