"""The intake: what is left out, what waits, and that a copy from its arrays goes on alike."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from stream.errors import ArtifactError
from stream.schemas.session import Session
from tests.trainer.session_log import START_TS, make_session
from trainer.configs import LearningSettings
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.learning.intake import Intake

LEARNING = LearningSettings(batch=3, seen_s=100, converted_s=1_000)


def session(
    number: int,
    *,
    second: int = 0,
    revision: int = 0,
    orders: list[int] | None = None,
    changed: list[int] | None = None,
) -> Session:
    rng = np.random.default_rng(number)
    watermark_ts = START_TS + second * 1_000
    return make_session(number, rng, watermark_ts=watermark_ts, revision=revision, orders=orders, changed=changed)


def batch(sessions: Sequence[Session], held: Sequence[bool] = ()) -> SessionBatch:
    placed = tuple(OrderedSession(Key(one.watermark_ts, 0, offset), one) for offset, one in enumerate(sessions))
    return SessionBatch(placed, tuple(held) or (False,) * len(placed))


def waiting(intake: Intake) -> list[tuple[str, int, list[float]]]:
    return [(one.session.query_id, one.session.revision, one.labels.conv.tolist()) for one in intake.pending]


def test_held_and_repeated_sessions_and_corrections_without_an_order_are_counted_and_left_out() -> None:
    intake = Intake(LEARNING)
    empty_correction = session(1, revision=1, changed=[0])
    left_out = intake.take(batch([session(1), session(1), session(2), empty_correction], [False, False, True, False]))
    assert left_out == Counter(repeated=1, held=1, without_label=1)
    assert [one[:2] for one in waiting(intake)] == [("q1", 0)]


def test_a_purchase_is_trained_once_though_two_revisions_name_it() -> None:
    intake = Intake(LEARNING)
    assert not intake.take(batch([session(1, orders=[0]), session(1, revision=1, orders=[0, 1], changed=[0, 1])]))
    (_, _, first), (_, _, second) = waiting(intake)
    assert np.flatnonzero(first).tolist() == [0]
    assert np.flatnonzero(second).tolist() == [1]


def test_batches_fill_in_the_order_taken() -> None:
    intake = Intake(LEARNING)
    intake.take(batch([session(number) for number in range(7)]))
    filled = [intake.next_full(3), intake.next_full(3)]
    assert [[one.session.query_id for one in full or ()] for full in filled] == [["q0", "q1", "q2"], ["q3", "q4", "q5"]]
    assert intake.next_full(3) is None
    assert [one.session.query_id for one in intake.pending] == ["q6"]


def test_a_session_is_remembered_for_seen_s_and_a_purchase_for_converted_s() -> None:
    intake = Intake(LEARNING)
    intake.take(batch([session(1, orders=[0])]))
    intake.forget(START_TS + 100_000)
    assert intake.take(batch([session(1, orders=[0])])) == Counter(repeated=1)
    intake.forget(START_TS + 100_001)
    assert not intake.take(batch([session(1, orders=[0])]))
    assert not any(waiting(intake)[-1][2]), "the purchase is still known"
    intake.forget(START_TS + 1_100_001)
    assert not intake.take(batch([session(1, orders=[0])]))
    assert any(waiting(intake)[-1][2])


def test_a_copy_from_the_arrays_goes_on_alike() -> None:
    first = Intake(LEARNING)
    first.take(batch([session(1, orders=[0]), session(1, revision=1, orders=[0, 1], changed=[0, 1]), session(2)]))
    second = Intake(LEARNING)
    second.restore(first.to_files())
    assert waiting(second) == waiting(first) != []
    more = batch([session(2), session(1, revision=2, orders=[1], changed=[1]), session(3)])
    assert second.take(more) == first.take(more) == Counter(repeated=1, without_label=1)
    assert waiting(second) == waiting(first)


def test_a_damaged_waiting_session_is_refused() -> None:
    intake = Intake(LEARNING)
    intake.take(batch([session(1)]))
    files = intake.to_files()
    records = np.asarray(files["pending"]["records"]).copy()
    records[0] = 0xC1
    with pytest.raises(ArtifactError, match="session 0"):
        Intake(LEARNING).restore({**files, "pending": {**files["pending"], "records": records}})
