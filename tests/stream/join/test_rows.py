"""Rows survive their bytes."""

from stream.join import labels, rows
from stream.join.labels import ClickLabel
from stream.join.rows import ImpressionRow, ItemClick, OrderLineRow, OrderRow, ProgressRow, SessionRow, Source
from stream.schemas import topics


def test_a_waiting_event_is_read_back_from_key_and_value() -> None:
    source = Source(topics.CONVERSIONS, 3, 2**40, 1_700_000_000_000, b"raw")
    key = rows.waiting_key(source.partition, source.topic, source.offset, 5)
    assert rows.unpack_waiting(key, rows.pack_waiting(source)) == (source, 5, -1)
    assert rows.unpack_waiting(key, rows.pack_waiting(source, 77)) == (source, 5, 77)


def test_warm_rows_begin_with_their_expiry() -> None:
    merged = labels.empty()
    merged.merge(ClickLabel("e", "click", 1, 2, 3, 4, "query_id"))
    session = SessionRow(2, 10, "c", 3, merged, b"payload", 910)
    order = OrderRow({"line": OrderLineRow("q", 1, 2, "e", 3, 4, "last_click", 99)})
    clicks = [ItemClick(1, "e", "q", 0)]
    assert rows.unpack_session(rows.pack_warm(99, session)) == session
    assert rows.unpack_order(rows.pack_warm(99, order)) == order
    assert rows.unpack_clicks(rows.pack_warm(99, clicks)) == clicks
    assert rows.unpack_bytes(rows.pack_bytes(99, b"content")) == b"content"
    assert rows.expiry_of(rows.pack_warm(99, order)) == rows.expiry_of(rows.pack_bytes(99, b"")) == 99


def test_hot_and_progress_rows_are_read_back() -> None:
    impression = ImpressionRow(7, "e", b"payload")
    progress = ProgressRow(
        1, 2, 3, 4, {"clicks": 5}, {"clicks": 6}, {"clicks": 7}, {"clicks": 8}, {"a": 9}, 10, 11, b"h"
    )
    assert rows.unpack_impression(rows.pack_impression(impression)) == impression
    assert rows.unpack_labels(rows.pack_labels(labels.empty())) == labels.empty()
    assert rows.unpack_progress(rows.pack_progress(progress)) == progress


def test_keys_of_different_rows_differ() -> None:
    source = Source(topics.CLICKS, 0, 1, 2, b"")
    keys = [
        rows.impression_key("x"),
        rows.labels_key("x"),
        rows.waiting_key(source.partition, source.topic, source.offset, 0),
        rows.waiting_key(source.partition, source.topic, source.offset, 1),
        rows.session_key("x"),
        rows.clicks_key("x", "y"),
        rows.order_key("x", "y"),
        rows.profile_key("x"),
        rows.closed_key(b"c", 0, 1, 2),
        rows.closed_key(b"e", 0, 1, 2),
        rows.closed_key(b"c", 0, 1, 3),
    ]
    assert len(set(keys)) == len(keys)
