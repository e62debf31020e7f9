"""The patience of a reader that knows of more records."""

from collections.abc import Iterable
from itertools import islice

import pytest

from stream.broker.connection import Partition
from stream.broker.producer import Producer
from stream.broker.reader import Reader, read_to_end
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas import topics
from stream.schemas.records import Record
from tests.harness.sessions import log_of


class ScriptedReader(Reader):
    """A reader at one place, with given answers."""

    def __init__(self, answers: Iterable[list[Record]]) -> None:
        self._answers = iter(answers)

    def poll(self, timeout_ms: int = 500) -> list[Record]:
        return next(self._answers)

    def positions(self) -> dict[Partition, int]:
        return {("sessions", 3): 17}


def test_a_minute_without_records_is_an_error_that_names_the_place() -> None:
    (record,) = log_of([b""])
    reader = ScriptedReader([*[[]] * 119, [record], *[[]] * 200])
    polls = reader.polls()
    assert list(islice(polls, 239)).count([record]) == 1
    assert next(polls) == []
    with pytest.raises(BusError, match="no record for 60 s, expected more at sessions-3 offset 17"):
        next(polls)


def test_each_wait_has_a_minute_of_its_own() -> None:
    reader = ScriptedReader([[]] * 200)
    assert list(islice(reader.polls(), 100)) == list(islice(reader.polls(), 100)) == [[]] * 100


def test_a_broker_that_keeps_records_to_itself_ends_the_reading_of_a_topic(
    memory_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Producer(memory_broker) as producer:
        producer.send(topics.CLICKS, key=b"c", value=b"v", partition=0)
    monkeypatch.setattr(Reader, "poll", lambda _, timeout_ms=500: [])
    with pytest.raises(BusError, match="no record for 60 s, expected more at clicks-"):
        list(read_to_end(memory_broker, topics.CLICKS))
