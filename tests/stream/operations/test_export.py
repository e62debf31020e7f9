"""Exports of the topic `sessions`: sessions and unlinked order lines, each by its own name."""

from stream.operations import export
from tests.harness.sessions import log_of, make_session, purchase, unlinked

JOINED = make_session("q", "c1", lines=[purchase("t1", 1, 700)])


def test_unlinked_lines_come_once_and_never_beside_a_joined_line() -> None:
    twice, refunded = unlinked("c1", "t2", 300), unlinked("c1", "t2", 300, refund_id="r")
    joined, other_client = unlinked("c1", "t1", 700), unlinked("c2", "t1", 700)
    records = log_of([twice, joined, refunded, JOINED, other_client, b"", twice])
    assert export.unlinked_lines(records) == [twice, refunded, other_client]


def test_sessions_come_without_unlinked_lines() -> None:
    assert list(export.sessions(log_of([unlinked("c1", "t2"), JOINED]))) == [JOINED]
