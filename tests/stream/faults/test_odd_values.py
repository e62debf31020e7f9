"""S11: a header without a value, and a tick beyond 64 bits, must not stop a partition for ever."""

import msgspec
import pytest

from stream.schemas import topics
from stream.schemas.events import Tick
from tests.laws.join_log import PARTITION, START_TS, Stored, Tables


@pytest.mark.parametrize("name", ["redriven_from", "attempt", "first_seen", "anything"])
def test_s11_headers_without_a_value_go_with_their_record_to_the_dead_letters(name: str) -> None:
    """S11: Kafka allows headers whose value is null."""
    headers = [(name, None)]
    record = Stored(topic=topics.CLICKS, offset=0, timestamp=START_TS, key=b"k", value=b"{", headers=headers)  # type: ignore[arg-type]
    ((_, value, _),) = Tables().join().apply([record]).dead_letters
    assert value == b"{"


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**300, -1])
def test_s11_a_tick_beyond_any_offset_is_a_dead_letter(number: int) -> None:
    """S11: the numbers of a tick must fit the progress row."""
    tick = Tick(partition=PARTITION, seq=1, worker="x", hw={topics.CLICKS: 0}, now_ts=START_TS)
    value = msgspec.json.encode(tick).replace(b'"clicks":0', b'"clicks":%d' % number)
    tables = Tables()
    record = Stored(topic=topics.TICKS, offset=0, timestamp=START_TS, key=b"1", value=value)
    assert len(tables.join().apply([record]).dead_letters) == 1
    assert tables.join().positions == {topics.TICKS: 1}
