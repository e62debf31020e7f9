"""The desk of annotators: what is offered, and what is refused before anything is sent."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.annotation import MAX_AHEAD_MS, AnnotationDesk, NotOfferedError, UnreadableError
from serving.schemas import RequestError, decode_grades
from stream.schemas import topics
from stream.schemas.annotation import decode
from stream.schemas.records import ProducerRecord
from tests.trainer.annotation.test_scored_lists import LIST
from trainer.annotation.files import write_pages
from trainer.annotation.pages import rows_of

NOW_MS = 1_767_225_600_000
ROWS = rows_of(replace(LIST, session_at=(2, 9)), 0.5, "p50", "red shoes", {"i0": "A <b>shoe</b>"})


class Desk:
    """A desk with a file of one page, and what it has sent."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pages.jsonl"
        self.sent: list[ProducerRecord] = []
        write_pages(self.path, ROWS)
        self.desk = AnnotationDesk(self.path, self._deliver, now_ms=lambda: NOW_MS)

    async def _deliver(self, records: Sequence[ProducerRecord]) -> None:
        self.sent += records

    def grade(self, *judgements: dict[str, Any]) -> int:
        body = msgspec.json.encode({"annotator": "ann", "judgements": judgements})
        return asyncio.run(self.desk.grade(decode_grades(body))).accepted


def given(**changes: Any) -> dict[str, Any]:
    return {"page": ROWS[0].page, "item_id": "i0", "grade": 3, "seconds": 1.5, "event_ts": NOW_MS - 5, **changes}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_pages_are_offered_without_the_scores_that_chose_their_items(desk: Desk) -> None:
    offered = asyncio.run(desk.desk.offered())
    (page,) = msgspec.to_builtins(offered)["pages"]
    assert {name: page[name] for name in ("page", "query", "category")} == {
        "page": ROWS[0].page,
        "query": "red shoes",
        "category": "",
    }
    assert [item["item_id"] for item in page["items"]] == [row.item_id for row in ROWS]
    assert {"item_id": "i0", "type": "product", "title": "A <b>shoe</b>", "price": "10.00 EUR"} in page["items"]


def test_a_judgement_names_what_the_file_says_and_a_repeated_one_is_a_copy(desk: Desk) -> None:
    assert desk.grade(given(), given(item_id="i1", grade=0)) == 2
    first, second = (decode(record.value) for record in desk.sent)
    assert (first.query_id, first.item_id, first.grade, first.annotator, first.seconds) == ("q-1", "i0", 3, "ann", 1.5)
    assert (first.page, first.budget, first.num_items, first.event_ts) == (ROWS[0].page, "p50", 3, NOW_MS - 5)
    assert first.session_at == (2, 9)
    assert (second.item_id, second.grade) == ("i1", 0)
    assert {(record.topic, record.key) for record in desk.sent} == {
        (topics.ANNOTATIONS, first.key),
        (topics.ANNOTATIONS, second.key),
    }
    desk.grade(given())
    assert decode(desk.sent[2].value) == first


@pytest.mark.parametrize(
    ("judgement", "field", "value"),
    [
        (given(grade=10), "judgements[1].grade", "10"),
        (given(grade="3"), "judgements[1].grade", '"3"'),
        (given(seconds=-1), "judgements[1].seconds", "-1"),
        (given(item_id="i2"), "judgements[1].item_id", '"i2"'),
        (given(page="other"), "judgements[1].item_id", '"i0"'),
        (given(event_ts=NOW_MS + MAX_AHEAD_MS + 1), "judgements[1].event_ts", str(NOW_MS + MAX_AHEAD_MS + 1)),
        (given(budget="other"), "judgements[1].budget", '"other"'),
    ],
)
def test_one_wrong_judgement_refuses_all(desk: Desk, judgement: dict[str, Any], field: str, value: str) -> None:
    assert {row.item_id for row in ROWS} == {"i0", "i1"}
    with pytest.raises(RequestError) as refused:
        desk.grade(given(item_id="i1"), judgement)
    assert (refused.value.problem.field, refused.value.problem.value) == (field, value)
    assert desk.sent == []


def test_a_changed_file_is_read_again_and_one_that_is_gone_is_named_in_the_log_only(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.grade(given())
    other = rows_of(replace(LIST, query_id="q-2"), 1.0, "p100", "", {})
    desk.path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in other))
    os.utime(desk.path, ns=(1, 1))
    assert [page.page for page in asyncio.run(desk.desk.offered()).pages] == [other[0].page]
    with pytest.raises(RequestError):
        desk.grade(given())
    desk.path.write_text('{"page": "p"}\n')
    for name in ("serving.annotation_pages cannot be read: ", f"{desk.path}: line 1: "):
        with pytest.raises(UnreadableError, match=r"^the candidate pages cannot be read; see the log"):
            asyncio.run(desk.desk.offered())
        assert name in caplog.text
    desk.path.unlink()
    with pytest.raises(UnreadableError):
        desk.grade(given())
    assert len(desk.sent) == 1


def test_without_a_file_nothing_is_offered() -> None:
    async def deliver(_records: Sequence[ProducerRecord]) -> None:
        raise AssertionError

    desk = AnnotationDesk(None, deliver, now_ms=lambda: NOW_MS)
    with pytest.raises(NotOfferedError, match=r"serving\.annotation_pages is empty"):
        asyncio.run(desk.offered())
