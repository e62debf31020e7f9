"""Exports of sessions, unlinked order lines and annotations, each by its own name."""

from pathlib import Path

import pytest

from stream.broker.settings import Broker
from stream.operations import export
from stream.schemas import topics
from stream.schemas.annotation import decode
from tests.harness.sessions import log_of, make_session, purchase, unlinked
from tests.stream.replicas.test_annotations import FIRST, LATER, log

JOINED = make_session("q", "c1", lines=[purchase("t1", 1, 700)])


def test_unlinked_lines_come_once_and_never_beside_a_joined_line() -> None:
    twice, refunded = unlinked("c1", "t2", 300), unlinked("c1", "t2", 300, refund_id="r")
    joined, other_client = unlinked("c1", "t1", 700), unlinked("c2", "t1", 700)
    records = log_of([twice, joined, refunded, JOINED, other_client, b"", twice])
    assert export.unlinked_lines(records) == [twice, refunded, other_client]


def test_sessions_come_without_unlinked_lines() -> None:
    assert list(export.sessions(log_of([unlinked("c1", "t2"), JOINED]))) == [JOINED]


def test_annotations_come_once_and_on_request_without_those_that_are_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.replicas.annotations.read_to_end", lambda _broker, _topic: log(FIRST, LATER, FIRST))
    out = tmp_path / "out.jsonl"
    broker = Broker(bootstrap="127.0.0.1:1")
    assert export.export(broker, topics.ANNOTATIONS, out) == 2
    assert [decode(line) for line in out.read_bytes().splitlines()] == [FIRST, LATER]
    assert export.export(broker, topics.ANNOTATIONS, out, latest=True) == 1
    assert [decode(line) for line in out.read_bytes().splitlines()] == [LATER]
