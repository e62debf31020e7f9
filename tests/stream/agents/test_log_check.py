"""Detection of lost records: by the end of the log, and by other records at the offsets of merged ones."""

import pytest

from stream.agents import log_check
from stream.broker.offsets import append_times
from stream.broker.reader import Reader, read_to_end
from stream.broker.settings import Broker
from stream.errors import BusError
from stream.schemas import topics
from tests.harness.worker import send

CLICKS = (topics.CLICKS, 0)


def _fill(broker: Broker) -> log_check.LogFingerprint:
    send(broker, [(topics.CLICKS, b"client-%d" % number, b"value-%d" % number) for number in range(40)])
    last = [record for record in read_to_end(broker, topics.CLICKS) if record.partition == CLICKS[1]][-1]
    return {topics.CLICKS: (last.offset, last.timestamp)}


@pytest.mark.kafka
def test_a_whole_log_is_accepted_and_a_short_or_other_one_is_not(fresh_kafka: Broker) -> None:
    log_check.verify(fresh_kafka, {0: {}}, {CLICKS: 0})
    known = _fill(fresh_kafka)
    offset, append_ts = known[topics.CLICKS]
    assert offset > 2
    log_check.verify(fresh_kafka, {0: known}, {CLICKS: 0})
    log_check.verify(fresh_kafka, {0: known}, {CLICKS: offset + 1})

    with pytest.raises(
        log_check.LostRecordsError, match=rf"clicks-0 was read up to offset {offset + 2}, but its log ends"
    ):
        log_check.verify(fresh_kafka, {0: {topics.CLICKS: (offset + 1, append_ts)}}, {CLICKS: 0})
    with pytest.raises(
        log_check.LostRecordsError, match=rf"clicks-0 was read up to offset {offset + 2}, but its log ends"
    ):
        log_check.verify(fresh_kafka, {0: {}}, {CLICKS: offset + 2})
    with pytest.raises(log_check.LostRecordsError, match=f"clicks-0 holds another record at offset {offset - 1}"):
        log_check.verify(fresh_kafka, {0: {topics.CLICKS: (offset - 1, append_ts - 1)}}, {CLICKS: 0})


@pytest.mark.kafka
def test_append_times_are_those_of_the_records(fresh_kafka: Broker) -> None:
    _fill(fresh_kafka)
    records = [record for record in read_to_end(fresh_kafka, topics.CLICKS) if record.partition == CLICKS[1]]
    for record in (records[0], records[3], records[-1]):
        assert append_times(fresh_kafka, {CLICKS: record.offset}) == {CLICKS: record.timestamp}
    assert append_times(fresh_kafka, {}) == {}


@pytest.mark.kafka
def test_a_reader_whose_position_lies_beyond_the_log_raises(fresh_kafka: Broker) -> None:
    offset, _ = _fill(fresh_kafka)[topics.CLICKS]
    with Reader(fresh_kafka, {CLICKS: offset + 5}) as reader, pytest.raises(BusError, match="OffsetOutOfRange"):
        _poll_for_ever(reader)


def _poll_for_ever(reader: Reader) -> None:
    for _ in range(60):
        reader.poll()
