"""Judgements on items that a list does not show are faults; those that no trainer can learn are named."""

from msgspec.structs import replace

from stream.schemas.annotation import Annotation
from tests.harness.sessions import log_of, make_session
from tests.stream.schemas.test_annotation import MADE
from tests.trainer.harness import PastList
from tests.trainer.session_log import LogRecord
from trainer.annotation.comparison import Compared, compare

# The list of q-1 lies at the offset 7 of partition 2, behind a record that cannot be read.
PAST = PastList(
    [
        LogRecord(each.partition, each.offset, each.value or b"")
        for each in log_of([b"\xff", make_session("q-1", "c-1", n=3)], partition=2, first=6)
    ]
)


def judged(event_id: str, item_id: str, offset: int | None, query_id: str = "q-1") -> Annotation:
    partition = None if offset is None else 2
    return replace(
        MADE,
        event_id=event_id,
        query_id=query_id,
        item_id=item_id,
        session_partition=partition,
        session_offset=offset,
    )


def test_an_item_that_the_list_does_not_show_is_a_fault() -> None:
    found = compare([judged("a", "i0", 7), judged("b", "i3", 7)], PAST)
    assert found == Compared(faults={"b": "item_id: the list of query 'q-1' has no item 'i3'"}, unplaced=[], lost=[])


def test_another_query_is_a_fault() -> None:
    found = compare([judged("a", "i0", 7, query_id="1,8E+2")], PAST)
    fault = "query_id: the session at partition 2, offset 7 is of 'q-1', got '1,8E+2'"
    assert found == Compared(faults={"a": fault}, unplaced=[], lost=[])


def test_judgements_without_a_place_or_at_another_record_are_told_apart() -> None:
    placed = [judged("unreadable", "i0", 6), judged("gone", "i0", 8), judged("copy", "i3", 7, query_id="q-2")]
    found = compare([judged("none", "i3", None), *placed], PAST, {"copy"})
    assert found == Compared(faults={}, unplaced=["none"], lost=["unreadable", "gone", "copy"])
