"""Lines that are refused are named; the others are sent."""

import re

import pytest

from stream.broker.producer import Producer
from stream.broker.reader import read_to_end
from stream.broker.settings import Broker
from stream.operations.produce import send_lines
from stream.schemas import topics

GOOD = (
    b'{"event_id": "k-1", "event_ts": 1, "client_id": "c-1", "source": "test", '
    b'"action_name": "click", "object_id": "x"}'
)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            GOOD.replace(b'"event_ts": 1', b'"event_ts": "soon"'),
            'wrong_type: event_ts: Expected `int`, got `str`, got "soon"',
        ),
        (GOOD.replace(b'"click"', b'"view"'), 'action_name: Invalid enum value .view., got "view"'),
        (GOOD.replace(b'"object_id": "x"', b'"object": "x"'), "missing_field: object_id: "),
        (b"{", "not_json: "),
    ],
)
def test_a_refused_line_names_field_and_value(line: bytes, fault: str, memory_broker: Broker) -> None:
    with Producer(memory_broker) as producer:
        produced = send_lines(producer, topics.CLICKS, [GOOD, line, b"", GOOD])
    assert produced.num_sent == 2
    ((number, said),) = produced.refused
    assert number == 2
    assert re.search(fault, said), said
    assert [record.value for record in read_to_end(memory_broker, topics.CLICKS)] == [GOOD, GOOD]
