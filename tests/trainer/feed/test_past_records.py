from collections.abc import Iterator, Mapping
from typing import Self

import pytest

from stream.broker.connection import Partition
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import ConfigError
from stream.schemas import session, topics
from stream.schemas.session import Session, encode
from tests.harness.sessions import unlinked
from tests.trainer.session_log import LogRecord, make_log
from trainer.feed import past_records
from trainer.feed.batches import OrderedSession
from trainer.feed.merge import Cursor, WatermarkMerge
from trainer.feed.past_records import KafkaPastRecords, check_retained, in_order


def test_sessions_of_a_range_have_the_order_of_the_first_time() -> None:
    log = make_log(40)
    merge = WatermarkMerge({p: Cursor(next_offset=0) for p in range(3)})
    for each in log:
        content = session.decode(each.value)
        assert not isinstance(content, session.UnlinkedLine)
        merge.push(each.partition, each.offset, content)
    released = list(merge.release())
    first, until = dict.fromkeys(range(3), 0), dict.fromkeys(range(3), 0)
    cursors = {p: Cursor(next_offset=0) for p in range(3)}
    for key in (one.key for one in released[:20]):
        first[key.partition] = key.offset + 1
        cursors[key.partition] = Cursor(next_offset=key.offset + 1, watermark_ts=key.watermark_ts)
    for key in (one.key for one in released[:50]):
        until[key.partition] = key.offset + 1
    chosen = [r for r in log if first[r.partition] <= r.offset < until[r.partition]]
    expected = [OrderedSession(one.key, one.record) for one in released[20:50] if isinstance(one.record, Session)]
    assert in_order(sorted(chosen, key=lambda r: r.partition), cursors) == expected


def test_unlinked_lines_and_unreadable_records_are_passed_over() -> None:
    records = [LogRecord(0, 0, encode(unlinked("u1", "t1"))), LogRecord(0, 1, b"\xff")]
    assert in_order(records, {0: Cursor(next_offset=0)}) == []


@pytest.mark.parametrize(
    ("beginnings", "message"),
    [
        ({0: 5, 1: 0}, None),
        ({0: 6, 1: 0}, "retention has removed offsets 5 to 5 of partition 0 of sessions"),
        ({0: 60, 1: 9}, "retention has removed offsets 5 to 8 of partition 0 of sessions"),
    ],
)
def test_a_range_that_the_log_does_not_hold_whole_is_refused(beginnings: dict[int, int], message: str | None) -> None:
    first, until = {0: 5, 1: 3}, {0: 9, 1: 3}
    if message is None:
        check_retained(beginnings, first, until)
        return
    with pytest.raises(ConfigError, match=message):
        check_retained(beginnings, first, until)


def test_a_range_and_single_records_are_read_from_the_broker(memory_broker: Broker) -> None:
    with Producer(memory_broker) as producer:
        for number in range(30):
            producer.send(topics.SESSIONS, key=None, value=str(number).encode(), partition=number % 2)
    found = KafkaPastRecords(memory_broker).read({0: 3, 1: 2, 2: 0}, {0: 7, 1: 2, 2: 0})
    assert [(each.partition, each.offset, each.value) for each in found] == [
        (0, 3, b"6"),
        (0, 4, b"8"),
        (0, 5, b"10"),
        (0, 6, b"12"),
    ]
    # What the log does not hold is missing among single records.
    places = [(1, 14), (0, 3), (0, 4), (1, 0), (1, 15), (2, 0), (99, 0), (0, 3)]
    single = KafkaPastRecords(memory_broker).at(places)
    assert [(each.partition, each.offset, each.value) for each in single] == [
        (0, 3, b"6"),
        (0, 4, b"8"),
        (1, 0, b"1"),
        (1, 14, b"29"),
    ]
    assert KafkaPastRecords(memory_broker).at([]) == []


class SlowReader:
    """A reader whose answer comes at the second poll after a seek: a further seek gives up what is on its way."""

    def __init__(self, _broker: Broker, positions: Mapping[Partition, int]) -> None:
        self.restart(positions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def restart(self, positions: Mapping[Partition, int]) -> None:
        self._positions, self._is_ready = dict(positions), False

    def positions(self) -> dict[Partition, int]:
        return dict(self._positions)

    def beginnings(self) -> dict[Partition, int]:
        return {(topics.SESSIONS, p): 0 for p in range(2)}

    def ends(self) -> dict[Partition, int]:
        return {(topics.SESSIONS, p): 30 for p in range(2)}

    def polls(self) -> Iterator[list[LogRecord]]:
        while True:
            if self._is_ready:
                found = [LogRecord(p, offset, b"") for (_, p), offset in self._positions.items()]
                self._positions = {pair: offset + 1 for pair, offset in self._positions.items()}
                yield found
            else:
                self._is_ready = True
                yield []


def test_a_slow_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_records, "Reader", SlowReader)
    monkeypatch.setattr(past_records, "beginning_offsets", lambda _broker, _names: {})
    places = [(0, 3), (0, 4), (0, 20), (1, 7)]
    found = KafkaPastRecords(Broker(bootstrap="none:1")).at(places)
    assert [(each.partition, each.offset) for each in found] == places
