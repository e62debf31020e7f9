"""S12: rows of one client that outgrow the broker's cap."""

from collections import Counter
from pathlib import Path

import pytest

from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas import events, topics
from tests.harness.worker import running, wait_until_committed
from tests.laws.join_log import click, impression, purchase

CLIENT = "client-1"


def _orders(num: int) -> list[tuple[str, bytes]]:
    found = []
    for number in range(num):
        order = purchase(number, 1, ["item-1"] * 200, client=CLIENT, at_s=5)
        order.event_id, order.transaction_id = f"{number:064d}", f"{number:0128d}"
        for at, line in enumerate(order.items):
            line.line_id = f"{at:064d}"
        found.append((topics.CONVERSIONS, events.encode(order)))
    return found


def _clicks(num: int) -> list[tuple[str, bytes]]:
    found = []
    for number in range(num):
        touched = click(1, 2, "item-1", client=CLIENT, at_s=5, action="add_to_cart")
        touched.event_id = f"{number:064d}"
        found.append((topics.CLICKS, events.encode(touched)))
    return found


@pytest.mark.kafka
def test_s12_rows_beyond_the_brokers_cap_do_not_stop_the_worker(fresh_kafka: Broker, tmp_path: Path) -> None:
    """S12: one client's orders, clicks or key make no row or dead letter that the broker refuses."""
    with Producer(fresh_kafka) as producer:
        for number in (1, 2):
            shown = events.encode(impression(number, client=CLIENT))
            producer.send(topics.IMPRESSIONS, key=CLIENT.encode(), value=shown)
    with running(fresh_kafka, tmp_path / "home") as worker:
        # Before the events that refer to them, which would exceed the waiting events of one client.
        wait_until_committed(fresh_kafka, worker)
        with Producer(fresh_kafka) as producer:
            for topic, value in (*_orders(12), *_clicks(4_000)):
                producer.send(topic, key=CLIENT.encode(), value=value)
            producer.send(topics.CLICKS, key=b"k" * 1_048_400, value=b"{")
        wait_until_committed(fresh_kafka, worker)
        assert worker.stop() == 0, worker.log
    found = Counter(dict(each.headers)["reason"] for each in read_to_end(fresh_kafka, topics.UNJOINED))
    assert found == {b"evicted": 12 * 200 - 1_000 + 4_000 - 1_000}
    (dead,) = read_to_end(fresh_kafka, topics.DEAD_LETTERS)
    assert dead.key == b"k" * 1_024
