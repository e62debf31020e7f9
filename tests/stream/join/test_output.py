"""The output of a micro-batch takes records that did not join."""

from stream.join.output import MicroBatchOutput
from stream.join.rows import Source
from stream.operations.join_in_memory import LogRecord
from stream.schemas import dead_letter, topics


def test_an_unjoined_line_keeps_its_source() -> None:
    output = MicroBatchOutput()
    output.add_unjoined("c", Source(topics.CONVERSIONS, 2, 7, 99, b"{}"), "no_click", "nothing", line_id="1")
    ((key, value, headers),) = output.unjoined
    found = dead_letter.read(LogRecord(topics.UNJOINED, 2, 0, 0, key, value, headers))
    assert found is not None
    assert (key, value) == (b"c", b"{}")
    assert found.identity == (topics.CONVERSIONS, 2, 7, "1")
    assert (found.reason, found.append_ts) == ("no_click", 99)
    assert output.dead_letters == []
