"""The ends of logs behind transactional producers, on a real broker."""

import pytest

from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.operations.log_tails import LogTails
from stream.operations.tick_writer import Ticker
from stream.schemas import topics
from tests.harness.faults import wait_until
from tests.harness.kafka import PARTITIONS
from tests.harness.transactions import begin, produce_to


def clicks_ends(ticker: Ticker) -> list[int]:
    ends = ticker.high_watermarks()
    return [ends[topics.CLICKS, partition] for partition in range(PARTITIONS)]


@pytest.mark.kafka
def test_markers_and_aborted_records_at_the_end_of_a_log_are_its_tail(fresh_kafka: Broker) -> None:
    with Producer(fresh_kafka) as producer:
        producer.send(topics.CLICKS, key=b"c", value=b"{}", partition=3)
    committed = begin(fresh_kafka, "committed")
    produce_to(committed, topics.CLICKS, [0, 1], 2)
    committed.commit_transaction()
    aborted = begin(fresh_kafka, "aborted")
    produce_to(aborted, topics.CLICKS, [1, 2], 50)
    aborted.abort_transaction()
    with Producer(fresh_kafka) as producer, Ticker(fresh_kafka, producer, writer="test") as ticker:
        # The broker writes a marker after its answer.
        wait_until(lambda: clicks_ends(ticker) == [3, 54, 51, 1], "the markers", 30)
        ends = ticker.high_watermarks()
    with LogTails(fresh_kafka) as tails:
        expected = {(topics.CLICKS, 0): 2, (topics.CLICKS, 1): 2, (topics.CLICKS, 2): 0}
        assert tails.find(ends, {}) == expected
        assert tails.find(ends, {(topics.CLICKS, 3): 1}) == expected, "known from before"
        with Producer(fresh_kafka) as producer:
            producer.send(topics.CLICKS, key=b"c", value=b"{}", partition=0)
            producer.flush()
            ends[topics.CLICKS, 0] = 4
            del expected[topics.CLICKS, 0]
            assert tails.find(ends, producer.ends) == expected


@pytest.mark.kafka
def test_a_search_opens_no_connection(fresh_kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that restarts refuses new connections; the kept one waits for it."""
    with Producer(fresh_kafka) as producer:
        producer.send(topics.CLICKS, key=b"c", value=b"{}", partition=3)
        producer.flush()
        ends = {(topics.CLICKS, 3): producer.ends[topics.CLICKS, 3]}
    with LogTails(fresh_kafka) as tails:

        def refused(*_: object, **__: object) -> None:
            raise AssertionError("a new connection")

        for module in ("connection", "offsets", "reader"):
            monkeypatch.setattr(f"stream.broker.{module}.consumer", refused)
        assert tails.find(ends, {}) == {}
        assert tails.find(ends, {}) == {}, "the log ends with a record"


@pytest.mark.kafka
def test_an_open_transaction_has_no_tail_and_is_part_of_the_log(fresh_kafka: Broker) -> None:
    pending = begin(fresh_kafka, "open")
    produce_to(pending, topics.CLICKS, [0], 3)
    with Producer(fresh_kafka) as producer, Ticker(fresh_kafka, producer, writer="test") as ticker:
        ends = ticker.high_watermarks()
        assert ends[topics.CLICKS, 0] == 3
        with LogTails(fresh_kafka) as tails:
            assert tails.find(ends, {}) == {}
            pending.commit_transaction()
            # The broker writes the marker after its answer.
            wait_until(lambda: tails.find(ticker.high_watermarks(), {}) == {(topics.CLICKS, 0): 3}, "the tail", 30)
