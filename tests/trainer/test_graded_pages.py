"""Pages that people graded: which ones a boundary learns, with which grades, and the same ones after a crash."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from stream import db
from stream.failpoints import Failpoint, no_failpoint
from stream.replicas.catalogue import Catalogue
from stream.schemas import session, topics
from stream.schemas.annotation import Judgement, annotation_of, encode
from stream.schemas.session import Session
from tests.stream.replicas.test_catalogue import StoredRecord
from tests.trainer.harness import LINEAGE, SETTINGS, Crash, PastList, feed, make_loop, weights
from tests.trainer.session_log import START_TS, make_items, make_log
from trainer.configs.smar import PROFILES
from trainer.graded_pages import GradedPages, passed_until
from trainer.learning.training_lists import TrainingLists
from trainer.loop import Loop
from trainer.versions.checkpoint import Origin, SkippedRange

LOG = make_log(48)
CATALOGUE = Catalogue(make_items())
ORIGIN = Origin(lineage="old", version=1, artifact="a", boundary_ts=30)
SKIPPED = SkippedRange(from_offsets={}, until_offsets={}, from_ts=20, until_ts=50)
PASSES = 2
SMAR = replace(LINEAGE, model="smar", config=replace(PROFILES["tiny"], grade_passes=PASSES))


@dataclass(frozen=True)
class Placed:
    """A session of the log and its place."""

    session: Session
    at: tuple[int, int]


def first_revisions() -> dict[str, Placed]:
    found = {}
    for record in LOG:
        content = session.decode(record.value)
        if isinstance(content, Session) and content.revision == 0:
            found[content.query_id] = Placed(content, (record.partition, record.offset))
    return found


SESSIONS = first_revisions()


def grade(query: str, place: int, grade_: int, second: int, **changes: Any) -> StoredRecord:
    """A judgement on the item at a place of a list, appended at a second of the log."""
    own = SESSIONS[query]
    values: dict[str, Any] = {
        "query_id": query,
        "item_id": own.session.item_id[place],
        "grade": grade_,
        "annotator": "ann",
        "page": query,
        "budget": "p30",
        "num_items": own.session.n,
        "session_partition": own.at[0],
        "session_offset": own.at[1],
        **changes,
    }
    made = annotation_of(Judgement(**values), 0)
    timestamp = START_TS + second * 1_000
    return StoredRecord(made.key, encode(made), 0, topic=topics.ANNOTATIONS, timestamp=timestamp)


class Tail:
    """The records of `annotations`, each brought once."""

    def __init__(self, *records: StoredRecord) -> None:
        self.waiting = list(records)

    def read(self) -> list[StoredRecord]:
        found, self.waiting = self.waiting, []
        return found


def pages_of(*records: StoredRecord, beginning: int = 0, batch: int = 16, passes: int = 1) -> GradedPages:
    return GradedPages(Tail(*records).read, PastList(LOG, beginning), batch=batch, passes=passes)


def window(own: GradedPages, since: int, until: int) -> list[TrainingLists]:
    return list(own.lists(START_TS + since * 1_000, START_TS + until * 1_000, CATALOGUE))


def grades_of(lists: TrainingLists) -> dict[str, dict[str, float]]:
    """Grades by query and item."""
    assert lists.grade is not None
    found: dict[str, dict[str, float]] = {query: {} for query in lists.examples.query_id}
    for of, item, value in zip(lists.examples.cand.of, lists.examples.item_ids, lists.grade.tolist(), strict=True):
        if not np.isnan(value):
            found[lists.examples.query_id[of]][item] = value
    return found


def learned(own: GradedPages, since: int, until: int) -> dict[str, dict[str, float]]:
    return {query: own_ for lists in window(own, since, until) for query, own_ in grades_of(lists).items()}


def item(query: str, place: int) -> str:
    return SESSIONS[query].session.item_id[place]


def test_a_window_learns_the_pages_that_were_graded_in_it_and_no_other() -> None:
    own = pages_of(grade("q1", 0, 3, 10), grade("q1", 2, 0, 20), grade("q2", 1, 1, 21), grade("q3", 0, 1, 41))
    assert learned(own, 0, 9) == {}
    assert learned(own, 0, 20) == {"q1": {item("q1", 0): 3, item("q1", 2): 0}}
    assert learned(own, 20, 40) == {"q2": {item("q2", 1): 1}}
    assert own.outcomes["learned"] == 2


def test_grades_of_items_that_models_do_not_read_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    own = pages_of(
        *(grade("q1", 0, value, 10, item_id="behind", annotator=name) for value, name in ((3, "ann"), (1, "bob"))),
        *(grade("q2", place, 1, 10) for place in (0, 1)),
        grade("q1", 0, 3, 10),
    )
    assert learned(own, 0, 20) == {"q1": {item("q1", 0): 3}, "q2": {item("q2", place): 1 for place in (0, 1)}}
    assert "1 graded items are not learned: models read the first 30 of a list" in caplog.text
    caplog.clear()
    assert learned(pages_of(grade("q1", 0, 3, 10)), 0, 20)
    assert "not learned" not in caplog.text


def test_a_page_has_all_its_grades_of_then_the_mean_of_annotators_and_the_last_one_of_each() -> None:
    records = [
        grade("q1", 0, 3, 10),
        grade("q1", 1, 1, 10),
        grade("q1", 0, 0, 15, annotator="bob"),
        # A correction, and a copy of the first judgement.
        grade("q1", 1, 2, 30),
        grade("q1", 0, 3, 50),
    ]
    own = pages_of(*records)
    assert learned(own, 0, 20) == {"q1": {item("q1", 0): 1.5, item("q1", 1): 1}}
    assert learned(own, 20, 40) == {"q1": {item("q1", 0): 1.5, item("q1", 1): 2}}
    assert learned(own, 40, 60) == {}, "a copy is nothing new"
    # The past does not change by what came later.
    assert learned(pages_of(*records), 0, 20) == {"q1": {item("q1", 0): 1.5, item("q1", 1): 1}}


def test_grades_that_came_while_the_trainer_ran_count_by_their_append_time(caplog: pytest.LogCaptureFixture) -> None:
    tail = Tail(grade("q1", 0, 3, 10))
    own = GradedPages(tail.read, PastList(LOG), batch=16, passes=1)
    assert learned(own, 0, 20) == {"q1": {item("q1", 0): 3}}
    tail.waiting = [grade("q2", 0, 1, 30), grade("q3", 0, 1, 19), StoredRecord(b"", b"{", 0)]
    with caplog.at_level(logging.WARNING):
        assert learned(own, 20, 40) == {"q2": {item("q2", 0): 1}}
    assert "1 judgements are not learned: the log of sessions is ahead of the broker's clock" in caplog.text


def test_pages_without_a_session_are_counted_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    late = max(SESSIONS, key=lambda query: SESSIONS[query].at[1])
    records = [
        grade("q0", 0, 3, 10),
        grade("q1", 0, 3, 10, session_partition=None, session_offset=None),
        # The place of another list.
        grade("q2", 0, 3, 10, session_offset=SESSIONS[late].at[1], session_partition=SESSIONS[late].at[0]),
        grade(late, 0, 2, 11),
    ]
    own = pages_of(*records, beginning=SESSIONS["q0"].at[1] + 1)
    with caplog.at_level(logging.WARNING):
        assert learned(own, 0, 20) == {late: {item(late, 0): 2}}
    assert own.outcomes == {"learned": 1, "lost": 2, "unplaced": 1, "refused": 0}
    assert "2 graded pages are not learned: the log does not hold their sessions" in caplog.text


@pytest.mark.parametrize(
    ("boundary_ts", "origin", "skipped", "until"),
    [
        (None, None, (), 0),
        (10, None, (), 10),
        (None, ORIGIN, (), 30),
        (10, ORIGIN, (), 30),
        (40, ORIGIN, (), 40),
        (40, ORIGIN, (SKIPPED,), 50),
        (60, ORIGIN, (SKIPPED,), 60),
    ],
)
def test_what_the_weights_know_and_what_a_rollback_leaves_out_is_passed_over(
    boundary_ts: int | None, origin: Origin | None, skipped: tuple[SkippedRange, ...], until: int
) -> None:
    assert passed_until(boundary_ts, origin, skipped) == until


def test_steps_are_batches_that_come_as_often_as_there_are_passes_and_train_no_click_again() -> None:
    own = pages_of(*(grade(f"q{number}", 0, number % 5, 10) for number in range(5)), batch=2, passes=3)
    steps = window(own, 0, 20)
    assert [list(each.examples.query_id) for each in steps] == [["q0", "q1"], ["q2", "q3"], ["q4"]] * 3
    assert own.outcomes["learned"] == 5
    for each in steps:
        assert each.num_new == 0
        assert not each.fresh.any()
        assert not each.examples.conv.any()
        assert not any(each.examples.click_weight)


def make_engine(folder: Path) -> Engine:
    folder.mkdir(exist_ok=True)
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return engine


RECORDS = [
    *(grade(f"q{number}", place, (number + place) % 5, 15) for number in range(6) for place in range(3)),
    *(grade(f"q{number}", place, place, 30) for number in range(8, 12) for place in range(3)),
]


def run(folder: Path, records: Sequence[StoredRecord], failpoint: Failpoint = no_failpoint) -> Loop:
    loop = make_loop(
        folder,
        make_engine(folder),
        lineage=SMAR,
        settings=SETTINGS,
        graded=pages_of(*records, passes=PASSES),
        failpoint=failpoint,
    )
    feed(loop, LOG)
    return loop


def outcomes(loop: Loop) -> Counter[str]:
    assert loop.graded is not None
    return loop.graded.outcomes


@pytest.mark.slow
def test_grades_move_the_weights_alone_and_a_resumed_run_is_bit_equal(tmp_path: Path) -> None:
    later = [replace(each, timestamp=START_TS + 10_000_000) for each in RECORDS]
    whole, without = run(tmp_path / "whole", RECORDS), run(tmp_path / "without", later)
    assert outcomes(whole)["learned"] == 10
    assert not outcomes(without), "the log of sessions has not reached the time of the grades"
    assert weights(whole) != weights(without)
    assert whole.learner.counters == without.learner.counters, "graded pages are no further sessions"
    assert whole.learner.labels.num == without.learner.labels.num, "nor do their clicks train again"
    assert whole.learner.weights.num_steps == without.learner.weights.num_steps + 2 * PASSES

    visits = []

    def failpoint(name: str) -> None:
        if name == "checkpoint.before_rename":
            visits.append(name)
            if len(visits) == 3:
                raise Crash(name)

    with pytest.raises(Crash):
        run(tmp_path / "crashed", RECORDS, failpoint)
    resumed = run(tmp_path / "crashed", RECORDS)
    assert outcomes(resumed)["learned"] == 4, "the first six were learned before the checkpoint"
    assert weights(resumed) == weights(whole)
    assert resumed.learner.batch_number == whole.learner.batch_number
