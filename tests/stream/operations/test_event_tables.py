"""Events of a log as tables for the batch oracle."""

from stream.operations.event_tables import EventTables, event_tables
from stream.schemas import topics
from tests.laws.join_log import START_TS, Event, Log, click, impression, part, purchase, reversal, send


def _tables(*happened: Event, left_out: frozenset[tuple[str, int, int, str]] = frozenset()) -> EventTables:
    records = Log.of(send(event) for event in happened).events()
    return event_tables({(each.topic, each.partition, each.offset): each for each in records}, left_out)


def test_a_list_is_the_union_of_its_parts() -> None:
    shown = _tables(part(1, "a", {1: "item-1", 2: "item-2"}), part(1, "b", {4: "item-4"}, at_s=5)).shown.sort("item")
    assert shown.select("item_id", "place", "item").rows() == [("item-1", 0, 0), ("item-2", 1, 1), ("item-4", 3, 2)]
    assert shown.select("imp_ts", "last_ts").unique().rows() == [(START_TS, START_TS + 5_000)]


def test_each_order_line_is_a_row_and_only_reversals_have_a_refund_id() -> None:
    order = purchase(1, 1, ["item-1", "item-2"])
    lines = _tables(order, reversal(order, 1, after_s=9)).lines.sort("refund_id", "line_id")
    assert lines.select("action", "line_id", "refund_id").rows() == [
        ("purchase", "0", ""),
        ("purchase", "1", ""),
        ("refund", "0", "r1"),
    ]


def test_what_lies_in_a_side_topic_is_left_out_by_record_or_by_line() -> None:
    happened = impression(1), click(1, 1, "item-1"), purchase(1, 1, ["item-1", "item-2"])
    record = Log.of(send(event) for event in happened).events()[0]
    whole = frozenset({(topics.CLICKS, record.partition, 0, "")})
    assert _tables(*happened, left_out=whole).clicks.height == 0
    line = frozenset({(topics.CONVERSIONS, record.partition, 0, "1")})
    assert _tables(*happened, left_out=line).lines["line_id"].to_list() == ["0"]
