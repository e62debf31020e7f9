from collections.abc import Sequence

import numpy as np
import torch

from stream.replicas.catalogue import Catalogue
from stream.schemas.session import Session, decode
from tests.trainer.session_log import START_TS, ListFeed, make_items
from tests.trainer.shoppers import Shop
from trainer.configs import MODEL_PROFILES, LearningSettings
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.learning import judging
from trainer.learning.judged_lists import JudgedLists
from trainer.learning.learner import Learner
from trainer.rollout import judgement

LEARNING = LearningSettings(seed=3, batch=10)


def catalogue() -> Catalogue:
    found = Catalogue()
    ListFeed(make_items()).advance(found, START_TS)
    return found


def taught(model: str, sessions: Sequence[Session], max_sessions: int = 1_000) -> Learner:
    learner = Learner(model, MODEL_PROFILES[model]["tiny"], LEARNING, device=torch.device("cpu"))
    learner.lineage = "test"
    learner.judged = JudgedLists(1_000, max_sessions, takes_shuffled=True)
    placed = tuple(OrderedSession(Key(one.watermark_ts, 0, number), one) for number, one in enumerate(sessions))
    learner.learn(SessionBatch(placed, (False,) * len(placed)), catalogue())
    return learner


def sessions_of(count: int, versions: Sequence[int | None] = (None,)) -> list[Session]:
    """Return sessions by these versions in turn, None for a random order; their scores say what shoppers like."""
    decoded = [decode(record.value) for record in Shop("test").serve(count)]
    found = [one for one in decoded if isinstance(one, Session)]
    for number, session in enumerate(found):
        version = versions[number % len(versions)]
        if version is not None:
            session.lineage, session.version, session.propensity = "test", str(version), b""
            liked = session.column("item_f16").reshape(session.n, -1)[:, 0]
            session.score = (liked.astype("<f4") + np.linspace(0.1, 0, session.n)).astype("<f4").tobytes()
    return found


def numbers(learner: Learner, live: int | None) -> dict[str, float]:
    assert learner.judged is not None
    return judging.numbers(learner, learner.judged, catalogue(), live)


def test_a_version_is_judged_on_the_lists_of_the_live_one_alone() -> None:
    learner = taught("prm", sessions_of(60, [3, 4, None]))
    by_live, by_former, without = numbers(learner, 3), numbers(learner, 4), numbers(learner, None)
    assert by_live[judgement.SHADOW_LISTS] == by_former[judgement.SHADOW_LISTS] == 20
    assert by_live[judgement.LOSS] != by_former[judgement.LOSS]
    assert {judgement.LOSS, judgement.SHADOW_LISTS}.isdisjoint(without)
    assert 0 < without[judgement.LISTS] <= 20
    assert numbers(learner, 5) == {}, "no list of that version"


def test_the_present_weights_are_compared_with_the_scores_as_served() -> None:
    sessions = sessions_of(40, [3])
    learner = taught("prm", sessions)
    with torch.no_grad():
        for weight in learner.params.values():
            weight.zero_()
    found = numbers(learner, 3)
    assert (found[judgement.CORRELATION], found[judgement.CHURN]) == (0.0, 1.0)
    before = {name: weight.clone() for name, weight in learner.params.items()}
    numbers(learner, 3)
    assert all(torch.equal(before[name], weight) for name, weight in learner.params.items())


def test_a_click_head_is_judged_by_its_clicks() -> None:
    sessions = sessions_of(40, [3])
    found = numbers(taught("armmt", sessions), 3)
    assert found[judgement.HEADS] == 1.0
    clicked = sum(int((session.column("clicks") > 0).sum()) for session in sessions)
    assert found[judgement.OBSERVED] == clicked
    assert 0 < found[judgement.PREDICTED] < sum(session.n for session in sessions)
    assert numbers(taught("prm", sessions), 3)[judgement.HEADS] == 0.0


def test_only_kept_sessions_are_scored_again_and_those_without_an_example_are_left_out() -> None:
    learner = taught("prm", sessions_of(40, [3]), max_sessions=10)
    assert learner.judged is not None
    assert numbers(learner, 3)[judgement.SHADOW_LISTS] == 10
    learner.judged.sessions[0].item_f16 = b"\0\0"
    assert numbers(learner, 3)[judgement.SHADOW_LISTS] == 9
    for session in learner.judged.sessions:
        session.item_f16 = b"\0\0"
    assert judgement.SHADOW_LISTS not in numbers(learner, 3)
