"""Dead letters: written, read back, collected and selected."""

import itertools
from hashlib import sha256

import pytest

from stream.operations.join_in_memory import LogRecord
from stream.schemas import dead_letter, topics
from stream.schemas.dead_letter import DeadLetter, Filter
from stream.schemas.events import MAX_EVENT_BYTES


def written(
    offset: int,
    place: int,
    *,
    reason: str = "misrouted",
    source: int = 5,
    line_id: str = "",
    attempt: int = 1,
    redriven_ts: int | None = None,
    value: bytes | None = b"{}",
) -> LogRecord:
    """Return a record of `dead_letters` whose source is `clicks/0/<source>`, appended at `offset` seconds."""
    headers = [
        ("reason", reason.encode()),
        ("detail", b"\xff and more"),
        ("topic", b"clicks"),
        ("partition", b"0"),
        ("offset", b"%d" % source),
        ("append_ts", b"%d" % (offset * 1_000)),
        ("attempt", b"%d" % attempt),
        ("first_seen", b"7"),
    ]
    if line_id:
        headers.append(("line_id", line_id.encode()))
    if redriven_ts is not None:
        headers.append(("redriven_ts", b"%d" % redriven_ts))
    return LogRecord(topics.DEAD_LETTERS, 0, place, 0, b"k", value, headers)


def test_a_rejected_record_reads_back_as_its_dead_letter() -> None:
    record = LogRecord(topics.CLICKS, 3, 17, 1_000, b"client", b"{", [("offset", b"9"), ("x", b"y")])
    key, value, headers = dead_letter.rejected(record, "not_json", "expected '}'")
    assert (key, value) == (b"client", b"{")
    found = dead_letter.read(LogRecord(topics.DEAD_LETTERS, 3, 40, 2_000, key, value, headers))
    assert found == DeadLetter(
        topic=topics.CLICKS,
        partition=3,
        offset=17,
        line_id="",
        reason="not_json",
        detail="expected '}'",
        append_ts=1_000,
        first_seen=1_000,
        attempt=1,
        redriven_ts=None,
        size=1,
        is_truncated=False,
        location=(3, 40),
        is_receipt=False,
    )


def test_a_record_above_the_size_limit_is_truncated() -> None:
    whole = b"x" * (MAX_EVENT_BYTES + 1)
    _, value, headers = dead_letter.rejected(LogRecord(topics.CLICKS, 0, 1, 0, b"k" * 5_000, whole), "too_large", "")
    assert value == whole[:1_024]
    assert dict(headers)["sha256"] == sha256(whole).hexdigest().encode()
    found = dead_letter.read(LogRecord(topics.DEAD_LETTERS, 0, 0, 0, None, value, headers))
    assert found is not None
    assert found.is_truncated


def test_an_unjoined_line_reads_back_with_its_line() -> None:
    key, value, headers = dead_letter.unjoined(
        "c", b"{}", topic="conversions", partition=2, offset=5, append_ts=9, reason="no_click", detail="d", line_id="7"
    )
    assert (key, value) == (b"c", b"{}")
    found = dead_letter.read(LogRecord(topics.UNJOINED, 2, 0, 0, key, value, headers))
    assert found is not None
    assert found.identity == ("conversions", 2, 5, "7")
    assert (found.reason, found.detail, found.append_ts) == ("no_click", "d", 9)


@pytest.mark.parametrize(
    ("headers", "attempt", "first_seen"),
    [
        ([("redriven_from", b"clicks/3/17"), ("attempt", b"2"), ("first_seen", b"77"), ("offset", b"9")], b"2", b"77"),
        ([("attempt", b"many")], b"1", b"1000"),
        ([("attempt", None)], b"1", b"1000"),
    ],
)
def test_a_redriven_record_goes_on_counting_attempts(
    headers: list[tuple[str, bytes]], attempt: bytes, first_seen: bytes
) -> None:
    record = LogRecord(topics.CLICKS, 0, 0, 1_000, b"k", b"{", [*headers, ("x", b"y")])
    written_headers = dict(dead_letter.rejected(record, "not_json", "")[2])
    assert written_headers["attempt"] == attempt
    assert written_headers["first_seen"] == first_seen
    assert written_headers["offset"] == b"0"
    assert written_headers.get("redriven_from") == dict(headers).get("redriven_from")
    assert "x" not in written_headers


def test_a_redrive_counts_one_attempt_more() -> None:
    found = dead_letter.read(written(1, 0, attempt=2))
    assert found is not None
    assert dead_letter.redrive_headers(found) == [
        ("redriven_from", b"clicks/0/5"),
        ("attempt", b"3"),
        ("first_seen", b"7"),
    ]


def test_a_dead_letter_written_again_is_the_same_dead_letter() -> None:
    found = dead_letter.collect([written(1, 0), written(1, 1), written(2, 2, source=6)])
    assert [each.coordinates for each in found.dead_letters] == [("clicks", 0, 5), ("clicks", 0, 6)]
    assert found.dead_letters[0].location == (0, 0)
    assert found.dead_letters[0].first_seen == 7
    assert found.num_unreadable == 0


def test_every_order_line_has_its_own_dead_letter() -> None:
    found = dead_letter.collect([written(1, 0, line_id="1"), written(1, 1, line_id="2"), written(1, 2, line_id="2")])
    assert [each.line_id for each in found.dead_letters] == ["1", "2"]
    assert len(dead_letter.at(found.dead_letters, ("clicks", 0, 5))) == 2
    assert dead_letter.at(found.dead_letters, ("clicks", 0, 4)) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_order_of_writes_does_not_matter(order: tuple[int, ...]) -> None:
    writes = [
        written(1, 0),
        written(1, 1, redriven_ts=90, value=None),
        written(1, 2),
        written(1, 3, attempt=2, reason="bad_value"),
    ]
    (two,) = dead_letter.collect([writes[at] for at in order]).dead_letters
    assert (two.attempt, two.reason, two.redriven_ts, two.location) == (2, "bad_value", None, (0, 3))
    (one,) = dead_letter.collect([writes[at] for at in order if at < 3]).dead_letters
    assert (one.attempt, one.redriven_ts, one.location, one.size) == (1, 90, (0, 0), 2)


@pytest.mark.parametrize("header", [("offset", b"five"), ("offset", None), ("reason", b"\xff")])
def test_records_with_other_headers_are_counted_as_unreadable(header: tuple[str, bytes]) -> None:
    good = written(1, 0)
    headers = [*(pair for pair in good.headers if pair[0] != header[0]), header]
    strange = LogRecord(topics.DEAD_LETTERS, 0, 0, 0, None, b"x", headers)
    found = dead_letter.collect([strange, written(1, 1)])
    assert (len(found.dead_letters), found.num_unreadable) == (1, 1)


def test_a_header_row_holds_every_header_that_can_be_read() -> None:
    row = dead_letter.header_row([*written(3, 0, line_id="2").headers, ("redriven_ts", b"soon"), ("other", b"x")])
    assert row == {
        "reason": "misrouted",
        "detail": "\ufffd and more",
        "topic": "clicks",
        "line_id": "2",
        "sha256": None,
        "redriven_from": None,
        "partition": 0,
        "offset": 5,
        "append_ts": 3_000,
        "attempt": 1,
        "first_seen": 7,
        "redriven_ts": None,
    }


def test_filters_select_by_reason_time_and_number() -> None:
    reasons = ("misrouted", "bad_value", "misrouted", "too_large")
    found = dead_letter.collect(
        written(at, at, source=at, reason=reason) for at, reason in enumerate(reasons)
    ).dead_letters

    def chosen(meant: Filter) -> list[int]:
        return [each.offset for each in meant.select(found)]

    assert chosen(Filter()) == [0, 1, 2, 3]
    assert chosen(Filter(reasons=frozenset({"misrouted"}))) == [0, 2]
    assert chosen(Filter(from_ts=1_000, to_ts=3_000)) == [1, 2]
    assert chosen(Filter(reasons=frozenset({"misrouted"}), limit=1)) == [0]
    assert dead_letter.count_reasons(found) == {"misrouted": 2, "bad_value": 1, "too_large": 1}


def test_a_redrive_receipt_is_read_as_the_dead_letter_that_was_redriven() -> None:
    record = written(1, 0, line_id="2", attempt=2)
    found = dead_letter.read(record)
    assert isinstance(found, DeadLetter)
    receipt = LogRecord(topics.DEAD_LETTERS, 0, 9, 0, b"k", None, dead_letter.receipt_headers(record, found, 123))
    (both,) = dead_letter.collect([receipt, record]).dead_letters
    assert (both.attempt, both.redriven_ts, both.line_id, both.location) == (2, 123, "2", (0, 0))
    assert list(dead_letter.payloads([record, receipt], {both.location})) == [record]
