"""Deadlines of queries and events come due in one order."""

from stream.join.deadlines import CLICK_RANK, CLOSE_RANK, PURCHASE_RANK, REVERSAL_RANK, Deadlines


def test_equal_deadlines_come_due_by_rank_time_and_offset() -> None:
    deadlines = Deadlines()
    deadlines.push(10, REVERSAL_RANK, 1, 0, b"refund")
    deadlines.push(10, CLOSE_RANK, 1, 0, "query")
    deadlines.push(10, PURCHASE_RANK, 1, 0, b"purchase")
    deadlines.push(10, CLICK_RANK, 2, 0, b"later")
    deadlines.push(10, CLICK_RANK, 1, 5, b"second")
    deadlines.push(10, CLICK_RANK, 1, 4, b"first")
    deadlines.push(11, CLICK_RANK, 0, 0, b"next")
    assert list(deadlines.pop_due(9)) == []
    due = list(deadlines.pop_due(10))
    assert [key for _, key in due] == [b"first", b"second", b"later", b"purchase", "query", b"refund"]
    assert {deadline_ts for deadline_ts, _ in due} == {10}
    assert list(deadlines.pop_due(20)) == [(11, b"next")]
    assert list(deadlines.pop_due(20)) == []
