import errno
import socket

import pytest

from serving.outbox.delivery import Delivery
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker, Security
from stream.schemas.records import ProducerRecord
from stream.schemas.topics import CLICKS

BATCH = [ProducerRecord(topic=CLICKS, key=b"c-1", value=b"1", headers=[("h", b"v")])]


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def delivery(broker: Broker | None, clock: Clock) -> Delivery:
    return Delivery(broker, clock=clock, random=lambda: 1.0)


def test_a_batch_is_acknowledged_with_its_headers(memory_broker: Broker) -> None:
    made = delivery(memory_broker, Clock())
    assert made.deliver(BATCH)
    assert made.wait_s == 0.0
    made.close()
    (record,) = read_to_end(memory_broker, CLICKS)
    assert (record.key, record.value, list(record.headers)) == (b"c-1", b"1", [("h", b"v")])


def test_a_closed_delivery_connects_again(memory_broker: Broker) -> None:
    made = delivery(memory_broker, Clock())
    assert made.deliver(BATCH)
    made.close()
    assert made.deliver(BATCH)
    made.close()
    assert len(list(read_to_end(memory_broker, CLICKS))) == 2


def test_an_unavailable_broker_is_tried_after_growing_times() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    clock = Clock()
    made = delivery(Broker(bootstrap=f"127.0.0.1:{port}"), clock)
    assert not made.deliver(BATCH)
    assert made.wait_s == 0.5
    assert not made.deliver(BATCH)
    assert made.wait_s == 0.5
    clock.now_s += 0.5
    assert not made.deliver(BATCH)
    assert made.wait_s == 1.0


def test_without_a_broker_nothing_is_delivered() -> None:
    made = delivery(None, Clock())
    assert not made.deliver(BATCH)
    assert made.wait_s == 0.0


def test_certificates_that_are_gone_for_a_moment_count_as_an_unavailable_broker() -> None:
    """The threads that deliver end with no error, or nothing would be delivered until the next start."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        security = Security(protocol="SSL", ca_file="/nowhere/ca.pem")
        broker = Broker(bootstrap=f"127.0.0.1:{listening.getsockname()[1]}", security=security)
        made = delivery(broker, Clock())
        assert not made.deliver(BATCH)
    assert made.wait_s == 0.5


def test_a_fault_of_the_client_that_no_one_foresaw_counts_as_one_too(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    made = delivery(memory_broker, Clock())
    with monkeypatch.context() as patch:
        patch.setattr("serving.outbox.delivery.Producer", refuse)
        assert not made.deliver(BATCH)
    assert (made.wait_s, "Too many open files" in caplog.text) == (0.5, True)
