import gc
import logging
import socket
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from serving.metrics import Metrics
from serving.outbox.emitter import Emitter
from serving.outbox.spool import Spool
from stream.broker.admin import create_topics
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.schemas.events import Impression, Query, ShownItems
from stream.schemas.topics import IMPRESSIONS
from tests.harness.kafka import PARTITIONS, local_kafka
from tests.serving.live import wait_until


@pytest.fixture
def forgiving_sockets(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """kafka-python leaves sockets of refused connections to the garbage collector, which warns."""
    caplog.set_level(logging.CRITICAL, logger="kafka")  # captured records would keep the sockets alive
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def impression(number: int) -> Impression:
    return Impression(
        event_id=f"e-{number}",
        event_ts=1,
        client_id=f"c-{number}",
        source="test",
        query_id=f"q-{number}",
        query=Query(hash="h"),
        currency="EUR",
        items=ShownItems(object_id=["i"], rank_in=[1], price_minor=[1]),
    )


def counts(metrics: Metrics) -> Counter[str]:
    return Counter(
        {
            state: int(metrics.registry.get_sample_value("shelfwise_serving_impressions_total", {"state": state}) or 0)
            for state in ("emitted", "delivered", "spooled", "dropped", "resent")
        }
    )


def emitter(
    broker: Broker | None, folder: Path, metrics: Metrics, *, spool_bytes: int = 1 << 20, queue_size: int = 1_000
) -> Emitter:
    return Emitter(
        broker,
        Spool(folder, spool_bytes, metrics),
        metrics,
        queue_size=queue_size,
        clock=time.monotonic,
        random=lambda: 0.0,
    )


def test_without_a_broker_everything_is_spooled_then_dropped(tmp_path: Path) -> None:
    metrics = Metrics()
    sender = emitter(None, tmp_path, metrics, spool_bytes=2_000)
    sender.start()
    for number in range(40):
        sender.offer(impression(number))
        done = number + 1
        wait_until(lambda done=done: counts(metrics)["spooled"] + counts(metrics)["dropped"] == done)  # type: ignore[misc]
    sender.stop()
    found = counts(metrics)
    assert found["emitted"] == 40 == found["spooled"] + found["dropped"]
    assert found["spooled"] > 0 < found["dropped"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2_000


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    metrics = Metrics()
    sender = emitter(None, tmp_path, metrics, queue_size=3)
    for number in range(5):
        sender.offer(impression(number))
    sender.start()
    sender.stop()
    assert counts(metrics) == {"emitted": 5, "delivered": 0, "spooled": 3, "dropped": 2, "resent": 0}


def test_a_dead_address_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    metrics = Metrics()
    sender = emitter(Broker(bootstrap=f"127.0.0.1:{port}"), tmp_path, metrics)
    sender.start()
    sender.offer(impression(1))
    sender.stop(20.0)
    found = counts(metrics)
    assert (found["emitted"], found["spooled"], found["delivered"]) == (1, 1, 0)


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.usefixtures("forgiving_sockets")
def test_broker_down_then_up_loses_nothing(tmp_path: Path) -> None:
    kafka = local_kafka(tmp_path / "kafka")
    broker = kafka.start()
    metrics = Metrics()
    sender = emitter(broker, tmp_path / "spool", metrics)
    try:
        create_topics(broker, PARTITIONS)
        sender.start()
        for number in range(10):
            sender.offer(impression(number))
        # On a busy machine the first acknowledgement can come too late; the batch then goes through the spool.
        wait_until(lambda: counts(metrics)["delivered"] + counts(metrics)["resent"] == 10)
        spooled = counts(metrics)["spooled"]
        kafka.stop()
        for number in range(10, 30):
            sender.offer(impression(number))
        wait_until(lambda: counts(metrics)["spooled"] == spooled + 20)
        sender.stop()
        kafka.start()
        again_metrics = Metrics()
        again = emitter(broker, tmp_path / "spool", again_metrics)
        again.start()
        for number in range(30, 35):
            again.offer(impression(number))
        wait_until(lambda: counts(again_metrics)["resent"] + counts(again_metrics)["delivered"] == 25)
        again.stop()
        found = [
            msgspec.json.decode(record.value or b"", type=Impression) for record in read_to_end(broker, IMPRESSIONS)
        ]
    finally:
        kafka.stop()
    assert {one.event_id for one in found} == {f"e-{number}" for number in range(35)}
    assert counts(metrics)["emitted"] == 30 == counts(metrics)["delivered"] + counts(metrics)["spooled"]
    assert list((tmp_path / "spool").iterdir()) == []
