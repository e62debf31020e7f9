"""The reservoir: what it keeps and draws, that a copy goes on alike, and what replayed lists teach a learner."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stream.errors import ArtifactError
from stream.replicas.catalogue import Catalogue
from tests.trainer.session_log import START_TS, make_items, make_session
from trainer.configs import MODEL_PROFILES, LearningSettings, ModelConfig
from trainer.features import ExampleBuilder, stream_labels
from trainer.features.hash_index import Hashes
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.learning.determinism import make_deterministic
from trainer.learning.intake import PendingSession
from trainer.learning.learner import Learner
from trainer.learning.reservoir import Reservoir
from trainer.learning.training_lists import TrainingLists
from trainer.versions.checkpoint import LearningState

CPU = torch.device("cpu")
CONFIG: ModelConfig = MODEL_PROFILES["prm"]["tiny"]
LEARNING = LearningSettings(batch=8, reservoir_share=0.25, reservoir=20, lr=0.01)


def pending(number: int) -> PendingSession:
    session = make_session(number, np.random.default_rng(number), watermark_ts=START_TS + number, orders=[number % 3])
    return PendingSession(session, stream_labels(session))


def numbers(sessions: list[PendingSession]) -> list[int]:
    return [int(one.session.query_id.removeprefix("q")) for one in sessions]


def filled(count: int, capacity: int, seed: int = 3) -> Reservoir:
    reservoir = Reservoir(capacity, seed)
    for start in range(0, count, 10):
        reservoir.add([pending(number) for number in range(start, start + 10)], start)
    return reservoir


def test_the_reservoir_keeps_all_sessions_up_to_its_capacity_and_never_more() -> None:
    assert sorted(numbers(filled(20, 30).sessions)) == list(range(20))
    assert len(filled(100, 30).sessions) == 30


def test_the_age_of_a_kept_session_is_geometric_with_the_capacity_as_its_mean() -> None:
    one = pending(0)
    reservoir, ages = Reservoir(50, 7), []
    for number in range(3_000):
        reservoir.add([PendingSession(one.session, one.labels._replace(click_weight=float(number)))], number)
        if number >= 1_000 and number % 50 == 49:
            ages.append([number - kept.labels.click_weight for kept in reservoir.sessions])
    # (1 - 1/50)^age is the chance to stay: a mean of 49, half of the sessions within 34.
    assert np.mean(ages) == pytest.approx(49, abs=3)
    assert np.mean(np.array(ages) < 34.3) == pytest.approx(0.5, abs=0.04)


def test_a_draw_has_no_session_twice_and_follows_from_seed_and_batch_number() -> None:
    drawn = numbers(filled(60, 30).draw(12, 5))
    assert len(set(drawn)) == 12
    assert numbers(filled(60, 30).draw(12, 5)) == drawn
    assert numbers(filled(60, 30).draw(12, 6)) != drawn
    assert numbers(filled(60, 30, seed=4).draw(12, 5)) != drawn


def test_a_reservoir_with_too_few_sessions_draws_none() -> None:
    assert filled(10, 30).draw(11, 1) == []


def test_a_copy_from_the_arrays_goes_on_alike() -> None:
    first, copy = filled(60, 30), Reservoir(30, 3)
    copy.restore(first.to_files())
    for reservoir in (first, copy):
        reservoir.add([pending(number) for number in range(60, 70)], 60)
    assert numbers(copy.sessions) == numbers(first.sessions)
    assert [one.labels.conv.tolist() for one in copy.sessions] == [one.labels.conv.tolist() for one in first.sessions]


def test_a_damaged_session_is_refused() -> None:
    files = filled(10, 30).to_files()
    files["reservoir"] = {**files["reservoir"], "records": np.zeros_like(files["reservoir"]["records"])}
    with pytest.raises(ArtifactError, match="session 0"):
        Reservoir(30, 3).restore(files)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(make_items())


def batch(first: int, count: int) -> SessionBatch:
    sessions = [pending(number).session for number in range(first, first + count)]
    placed = [OrderedSession(Key(one.watermark_ts, 0, first + place), one) for place, one in enumerate(sessions)]
    return SessionBatch(tuple(placed), (False,) * count)


def make_learner(learning: LearningSettings = LEARNING) -> Learner:
    make_deterministic(1)
    learner = Learner("prm", CONFIG, learning, device=CPU)
    learner.at_boundary(START_TS, None)
    return learner


def state(learner: Learner) -> LearningState:
    return learner.state(learner.prequential)


def test_batches_take_sessions_from_the_reservoir_once_it_holds_enough(catalogue: Catalogue) -> None:
    learner = make_learner()
    learner.learn(batch(0, 8 + 6 + 6), catalogue)
    assert learner.batch_number == 3
    assert not learner.pending
    assert learner.counters == {"trained": 20}
    assert sorted(numbers(learner.reservoir.sessions)) == list(range(20))


def test_only_new_lists_are_measured_and_their_ids_counted(catalogue: Catalogue) -> None:
    learner, plain = make_learner(), make_learner(replace(LEARNING, reservoir_share=0.0, batch=4))
    for own in (learner, plain):
        own.learn(batch(0, 20), catalogue)
    lists = {own.prequential.sums["arrival.order.lists"] for own in (learner, plain)}
    assert lists == {20}
    for one, other in zip(learner.id_maps.by_name().values(), plain.id_maps.by_name().values(), strict=True):
        one.at_boundary(START_TS + 60_000)
        other.at_boundary(START_TS + 60_000)
        assert len(one) == len(other) > 0


def test_a_replayed_list_moves_dense_weights_and_no_row(catalogue: Catalogue) -> None:
    learners = make_learner(), make_learner()
    builder = ExampleBuilder(catalogue)
    lists = TrainingLists.of(builder, [pending(50)], [pending(number) for number in range(51, 58)])
    for learner in learners:
        learner.learn(batch(0, 26), catalogue)
        learner.at_boundary(START_TS + 60_000, START_TS)
    before = {name: one.detach().clone() for name, one in learners[0].params.items()}
    learners[0].train(lists)
    learners[1].train(replace(lists, replayed=np.zeros(8, np.bool_)))
    for name in (name for name in before if not name.startswith("rows.")):
        torch.testing.assert_close(learners[0].params[name], learners[1].params[name])
    moved = [
        set(np.flatnonzero((own.params["rows.item"].detach() != before["rows.item"]).any(dim=1).numpy()))
        for own in learners
    ]
    of_new = learners[0].id_maps.by_name()["item"].lookup(Hashes.of(lists.examples.take(~lists.replayed).entity[:, 0]))
    assert moved[0]
    assert moved[0] <= set(of_new.tolist())
    assert moved[1] - set(of_new.tolist()), "the test needs rows that only replayed lists read"


def test_a_refused_batch_stays_out_of_the_reservoir(catalogue: Catalogue) -> None:
    learner = make_learner()
    learner.learn(batch(0, 8), catalogue)
    with torch.no_grad():
        learner.params["rank.weight"].fill_(float("inf"))
    learner.learn(batch(8, 6), catalogue)
    assert learner.counters == {"trained": 8, "quarantined": 6}
    assert sorted(numbers(learner.reservoir.sessions)) == list(range(8))


def test_a_restored_learner_goes_on_bit_by_bit(catalogue: Catalogue) -> None:
    whole, first, second = make_learner(), make_learner(), make_learner()
    whole.learn(batch(0, 60), catalogue)
    first.learn(batch(0, 33), catalogue)
    second.restore(first.to_files(), state(first), START_TS)
    second.learn(batch(33, 27), catalogue)
    assert {name: one.detach().numpy().tobytes() for name, one in second.params.items()} == {
        name: one.detach().numpy().tobytes() for name, one in whole.params.items()
    }
    assert numbers(second.reservoir.sessions) == numbers(whole.reservoir.sessions)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("reservoir_share", 1.0, "reservoir_share = 1.0"),
        ("reservoir_share", -0.1, "reservoir_share = -0.1"),
        ("reservoir_share", 0.01, "0 of a batch of 8 lists"),
        ("reservoir", 1, "a batch draws 2 sessions"),
        ("reservoir", 0, "reservoir = 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LEARNING, **{setting: value})  # type: ignore[arg-type]
