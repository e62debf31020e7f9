"""The lists of a batch: which of them count as new, as fresh and as shuffled, and which sessions are refused."""

import msgspec
import numpy as np

from stream.replicas.catalogue import Catalogue
from tests.trainer.session_log import make_items, make_session
from trainer.features import ExampleBuilder, stream_labels
from trainer.learning.intake import PendingSession
from trainer.learning.training_lists import TrainingLists


def pending(number: int, *, revision: int = 0, shuffled: bool = False, broken: bool = False) -> PendingSession:
    rng = np.random.default_rng(number)
    session = make_session(number, rng, watermark_ts=number, revision=revision, orders=[0], changed=[0])
    if shuffled:
        session = msgspec.structs.replace(session, propensity=np.full(session.n, 1 / session.n, "<f4").tobytes())
    if broken:
        features = np.frombuffer(session.item_f16, "<f2").copy()
        features[0] = np.nan
        session = msgspec.structs.replace(session, item_f16=features.tobytes())
    return PendingSession(session, stream_labels(session))


def test_new_first_revisions_are_fresh_and_replayed_lists_are_neither_fresh_nor_shuffled() -> None:
    new = [pending(0), pending(1, revision=1), pending(2, shuffled=True), pending(3, revision=1, shuffled=True)]
    lists = TrainingLists.of(ExampleBuilder(Catalogue(make_items())), new, [pending(4), pending(5, shuffled=True)])
    assert [one.query_id for one in lists.sessions] == [f"q{number}" for number in range(6)]
    assert lists.fresh.tolist() == [True, False, True, False, False, False]
    assert lists.shuffled.tolist() == [False, False, True, False, False, False]
    assert lists.replayed.tolist() == [False] * 4 + [True] * 2
    assert (len(lists.examples), lists.num_new, lists.num_refused) == (6, 4, 0)


def test_refused_sessions_have_no_list_and_only_new_ones_count() -> None:
    new = [pending(0), pending(1, broken=True), pending(2)]
    lists = TrainingLists.of(ExampleBuilder(Catalogue(make_items())), new, [pending(3, broken=True), pending(4)])
    assert [one.query_id for one in lists.sessions] == ["q0", "q2", "q4"]
    assert lists.replayed.tolist() == [False, False, True]
    assert (lists.num_new, lists.num_refused) == (2, 1)


def test_lists_of_other_data_are_all_fresh_or_none() -> None:
    examples = TrainingLists.of(ExampleBuilder(Catalogue(make_items())), [pending(0), pending(1)]).examples
    for fresh in (True, False):
        lists = TrainingLists.without_sessions(examples, fresh=fresh)
        assert lists.fresh.tolist() == [fresh, fresh]
        assert not lists.shuffled.any()
        assert (lists.num_new, list(lists.sessions)) == (2, [])
    grade = np.zeros(len(examples.item_ids), np.float32)
    assert TrainingLists.without_sessions(examples, fresh=False, grade=grade).num_new == 0, "their sessions are counted"
