"""Items of the topic `items`, applied up to a time only."""

import pytest
from confluent_kafka import Producer as TransactionalProducer

from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.replicas import catalogue
from stream.replicas.catalogue import Catalogue
from stream.schemas import topics
from tests.trainer.session_log import make_items
from trainer.feed.items import KafkaItems


def test_items_are_applied_up_to_a_time_and_damaged_records_are_counted(memory_broker: Broker) -> None:
    items = make_items(3)
    with Producer(memory_broker) as producer:
        catalogue.publish(producer, items)
        producer.send(topics.ITEMS, key=b"damaged", value=b"{")
        producer.flush()
    feed = KafkaItems(memory_broker)
    known = Catalogue()
    try:
        feed.advance(known, items[0].updated_ts - 1)
        assert known.get(items[0].item_id) is None
        assert feed.num_rejected == 1
        feed.advance(known, items[0].updated_ts)
        assert [known.get(item.item_id) for item in items] == items
        with Producer(memory_broker) as producer:
            producer.send(topics.ITEMS, key=items[0].item_id.encode(), value=None)
            producer.flush()
        feed.advance(known, 2**62)
        assert known.get(items[0].item_id) is None
        assert known.get(items[1].item_id) == items[1]
        assert feed.num_rejected == 1
    finally:
        feed.close()


@pytest.mark.kafka
def test_a_catalogue_that_comes_in_transactions_is_read_to_its_end(fresh_kafka: Broker) -> None:
    """The commit marker is the newest entry of the log, and no record."""
    producer = TransactionalProducer({"bootstrap.servers": fresh_kafka.bootstrap, "transactional.id": "catalogue"})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topics.ITEMS, key=b"damaged", value=b"{")
    producer.commit_transaction()
    feed = KafkaItems(fresh_kafka)
    try:
        feed.advance(Catalogue(), 0)
    finally:
        feed.close()
    assert feed.num_rejected == 1
