"""Letters: one per source record however often written, what is filtered, what marks them."""

import itertools

import pytest

from stream.schemas import dead_letter, topics
from stream.schemas.dead_letter import Filter, Letter
from tests.stream.logs import LogRecord


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
        headers.append((dead_letter.REDRIVEN_TS, b"%d" % redriven_ts))
    return LogRecord(topics.DEAD_LETTERS, 0, place, 0, b"k", value, headers)


def test_a_letter_written_again_is_the_same_letter() -> None:
    found = dead_letter.collect([written(1, 0), written(1, 1), written(2, 2, source=6)])
    assert [each.coordinates for each in found.letters] == [("clicks", 0, 5), ("clicks", 0, 6)]
    assert found.letters[0].place == (0, 0)
    assert found.letters[0].first_seen == 7
    assert found.num_unreadable == 0


def test_lines_of_an_order_are_letters_of_their_own() -> None:
    found = dead_letter.collect([written(1, 0, line_id="1"), written(1, 1, line_id="2"), written(1, 2, line_id="2")])
    assert [each.line_id for each in found.letters] == ["1", "2"]
    assert len(dead_letter.at(found.letters, ("clicks", 0, 5))) == 2
    assert dead_letter.at(found.letters, ("clicks", 0, 4)) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_order_of_writes_does_not_matter(order: tuple[int, ...]) -> None:
    writes = [
        written(1, 0),
        written(1, 1, redriven_ts=90, value=None),
        written(1, 2),
        written(1, 3, attempt=2, reason="bad_value"),
    ]
    (two,) = dead_letter.collect([writes[at] for at in order]).letters
    assert (two.attempt, two.reason, two.redriven_ts, two.place) == (2, "bad_value", None, (0, 3))
    (one,) = dead_letter.collect([writes[at] for at in order if at < 3]).letters
    assert (one.attempt, one.redriven_ts, one.place, one.size) == (1, 90, (0, 0), 2)


def test_records_without_the_headers_of_a_letter_are_counted() -> None:
    strange = LogRecord(topics.DEAD_LETTERS, 0, 0, 0, None, b"x", [("reason", b"misrouted"), ("offset", b"five")])
    assert dead_letter.collect([strange, written(1, 1)]).num_unreadable == 1


def test_filters() -> None:
    reasons = ("misrouted", "bad_value", "misrouted", "too_large")
    found = dead_letter.collect(written(at, at, source=at, reason=reason) for at, reason in enumerate(reasons)).letters

    def chosen(meant: Filter) -> list[int]:
        return [each.offset for each in meant.of(found)]

    assert chosen(Filter()) == [0, 1, 2, 3]
    assert chosen(Filter(reasons=frozenset({"misrouted"}))) == [0, 2]
    assert chosen(Filter(from_ts=1_000, to_ts=3_000)) == [1, 2]
    assert chosen(Filter(reasons=frozenset({"misrouted"}), limit=1)) == [0]
    assert dead_letter.count_reasons(found) == {"misrouted": 2, "bad_value": 1, "too_large": 1}


def test_a_mark_reads_as_the_letter_it_marks() -> None:
    record = written(1, 0, line_id="2", attempt=2)
    letter = dead_letter.read(record)
    assert isinstance(letter, Letter)
    marked = LogRecord(topics.DEAD_LETTERS, 0, 9, 0, b"k", None, dead_letter.mark(record, letter, 123))
    (both,) = dead_letter.collect([marked, record]).letters
    assert (both.attempt, both.redriven_ts, both.line_id, both.place) == (2, 123, "2", (0, 0))
    assert list(dead_letter.payloads([record, marked], {both.place})) == [record]
