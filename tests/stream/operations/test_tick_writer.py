"""The times of the last ticks."""

import pytest

from stream.broker.producer import Producer
from stream.broker.reader import Reader
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.operations.tick_writer import Ticker, clock_ts, newest_ts


def test_the_latest_time_counts_and_a_broker_that_keeps_its_ticks_to_itself_ends_the_reading(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert newest_ts(memory_broker) is None
    with Producer(memory_broker) as producer, Ticker(memory_broker, producer, writer="test") as ticker:
        ticker.tick(1_000)
        ticker.tick(3_000)
        producer.flush()
    assert newest_ts(memory_broker) == clock_ts(memory_broker) == 3_000
    monkeypatch.setattr(Reader, "poll", lambda _, timeout_ms=500: [])
    with pytest.raises(BusError, match="no record for 60 s, expected more at ticks-"):
        newest_ts(memory_broker)
