from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.schemas.session import Session
from tests.trainer.models.test_unique_rows import make_batch
from tests.trainer.session_log import START_TS, make_session
from trainer.features import Batch
from trainer.learning.judged_lists import NAME_BYTES, JudgedLists, measured
from trainer.models import MODELS

BATCH = make_batch(MODELS["prm"].profiles["tiny"], 3)
SIZE, WIDTH = BATCH.cand_mask.shape


def sessions_of(batch: Batch) -> list[Session]:
    rng = np.random.default_rng(4)
    found = [make_session(number, rng, watermark_ts=START_TS) for number in range(len(batch.cand_mask))]
    for session in found:
        session.version = "7"
    return found


def update(
    judged: JudgedLists,
    *,
    ranked: Sequence[int] = (),
    shuffled: Sequence[int] = (),
    fresh: NDArray[np.bool_] | None = None,
    sessions: list[Session] | None = None,
    head: bool = True,
) -> None:
    rng = np.random.default_rng(5)
    rows = np.arange(SIZE)
    served = np.where(np.isin(rows, ranked)[:, None], rng.normal(size=(SIZE, WIDTH)), np.nan)
    judged.update(
        (rng.normal(size=(SIZE, WIDTH)), rng.normal(size=(SIZE, WIDTH)) if head else None),
        BATCH,
        sessions_of(BATCH) if sessions is None else sessions,
        np.ones(SIZE, np.bool_) if fresh is None else fresh,
        served=served,
        shuffled=np.isin(rows, shuffled),
        weight=None,
        learns_clicks=True,
    )


def test_lists_that_the_lineage_ranked_are_judged_and_shuffled_ones_without_a_live_version() -> None:
    with_live, without = JudgedLists(99, 99, takes_shuffled=False), JudgedLists(99, 99, takes_shuffled=True)
    for judged in (with_live, without):
        update(judged, ranked=[0, 1], shuffled=[2])
    assert with_live.lists["version"].tolist() == [7, 7]
    assert without.lists["version"].tolist() == [7, 7, 0]
    assert [session.query_id for session in without.sessions] == ["q0", "q1", "q2"]
    assert np.isnan(without.lists["served_loss"][2])


def test_only_first_revisions_are_judged() -> None:
    judged = JudgedLists(99, 99, takes_shuffled=False)
    update(judged, ranked=[0, 1], fresh=np.arange(SIZE) == 1)
    assert [session.query_id for session in judged.sessions] == ["q1"]
    update(judged, ranked=[0, 1], fresh=np.zeros(SIZE, np.bool_))
    assert judged.lists.size == 1


def test_the_newest_lists_and_sessions_stay() -> None:
    judged = JudgedLists(3, 2, takes_shuffled=False)
    update(judged, ranked=[0, 1])
    first = judged.lists.copy()
    update(judged, ranked=[1, 2])
    assert judged.lists.size == 3
    assert judged.lists[0] == first[1]
    assert [session.query_id for session in judged.sessions] == ["q1", "q2"]


def test_a_list_has_the_measures_of_its_scores_and_names_its_client_and_category() -> None:
    sessions = sessions_of(BATCH)
    sessions[0].query_category, sessions[1].query_category = "c" * (NAME_BYTES + 9), None
    sessions[1].version, sessions[1].client_id = "nightly", sessions[0].client_id
    judged = JudgedLists(99, 99, takes_shuffled=False)
    update(judged, ranked=range(SIZE), sessions=sessions)
    assert judged.lists["category"][:2].tolist() == [b"c" * NAME_BYTES, b""]
    assert judged.lists["client"][0] == judged.lists["client"][1] != judged.lists["client"][2]
    assert judged.lists["version"][:3].tolist() == [7, -1, 7], "a name that is no number is no version"
    rng = np.random.default_rng(5)
    rng.normal(size=(SIZE, WIDTH))
    own, click = rng.normal(size=(SIZE, WIDTH)), rng.normal(size=(SIZE, WIDTH))
    expected = measured(own, click, BATCH, None, learns_clicks=True)
    for name in ("loss", "lead", "predicted", "observed"):
        np.testing.assert_array_equal(judged.lists[name], expected[name])
    assert np.isfinite(judged.lists["loss"]).any()


def test_without_a_click_head_no_clicks_are_predicted() -> None:
    judged = JudgedLists(99, 99, takes_shuffled=False)
    update(judged, ranked=[0, 1], head=False)
    assert np.isnan(judged.lists["predicted"]).all()


def test_a_checkpoint_holds_all_of_it() -> None:
    judged = JudgedLists(99, 2, takes_shuffled=True)
    update(judged, ranked=[0, 1], shuffled=[3])
    again = JudgedLists.from_files(judged.to_files(), 99, 2)
    assert again is not None
    assert again.lists.tobytes() == judged.lists.tobytes()
    assert again.sessions == judged.sessions
    assert again.takes_shuffled
    smaller = JudgedLists.from_files(judged.to_files(), 2, 1)
    assert smaller is not None
    assert (smaller.lists.size, len(smaller.sessions)) == (2, 1)
    update(smaller, ranked=[0])
    assert smaller.lists.size == 2
    assert JudgedLists.from_files({}, 99, 2) is None
