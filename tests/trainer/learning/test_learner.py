"""The learner behind the loop: repeated, held, refused and damaged sessions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from stream import db
from stream.replicas.catalogue import Catalogue
from stream.schemas.session import encode
from tests.trainer.harness import LINEAGE, SETTINGS, feed, make_loop, weights
from tests.trainer.session_log import START_TS, LogRecord, make_items, make_log, make_progress, make_session
from trainer.configs import MODEL_PROFILES, LearningSettings, Vocabulary
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.learning.determinism import make_deterministic
from trainer.learning.learner import Learner, LearningHalted, Step
from trainer.learning.training_lists import TrainingLists
from trainer.models import MODELS

# No test here looks at versions, and each takes as long as some steps.
UNPUBLISHED = replace(SETTINGS, publish_s=3_600_000)
UNSAVED = replace(UNPUBLISHED, checkpoint_every_wall_s=1e9)


def make_engine(folder: Path) -> Engine:
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return engine


@pytest.fixture(scope="module")
def log() -> list[LogRecord]:
    return make_log()


def single_partition(records: list[bytes]) -> list[LogRecord]:
    return [LogRecord(0, offset, value) for offset, value in enumerate(records)]


@pytest.mark.slow
def test_a_repeated_record_is_not_trained_twice(tmp_path: Path, log: list[LogRecord]) -> None:
    repeated = [record for record in log[:100] if record.partition == 0]
    shift = len(repeated)
    doubled = (
        log[:100]
        + [LogRecord(0, record.offset + shift, record.value) for record in repeated]
        + [LogRecord(r.partition, r.offset + (shift if r.partition == 0 else 0), r.value) for r in log[100:]]
    )
    loop = make_loop(tmp_path, make_engine(tmp_path), settings=UNSAVED)
    feed(loop, doubled)
    assert loop.learner.counters["trained"] == 240 + 80
    assert 0 < loop.learner.counters["repeated"] < shift


def test_a_session_with_nan_leaves_the_weights_untouched(tmp_path: Path) -> None:
    one_each = replace(LINEAGE, learning=replace(LINEAGE.learning, batch=1))
    loop = make_loop(tmp_path, make_engine(tmp_path), lineage=one_each)
    loop.feed.advance(loop.catalogue, START_TS)
    rng = np.random.default_rng(5)
    after: list[dict[str, bytes]] = []
    for number in range(4):
        session = make_session(number, rng, watermark_ts=START_TS + number * 10_000, orders=[0])
        if number == 3:
            features = np.frombuffer(session.item_f16, "<f2").copy()
            features[0] = np.nan
            session.item_f16 = features.tobytes()
        placed = OrderedSession(Key(session.watermark_ts, 0, number), session)
        loop.learner.learn(SessionBatch((placed,), (False,)), loop.catalogue)
        after.append(weights(loop))
    assert loop.learner.counters == {"rejected_features": 1, "trained": 3}
    assert after[2] == after[3]
    assert after[0] != after[1]


def test_refused_batches_change_nothing_and_five_in_a_row_halt(tmp_path: Path, log: list[LogRecord]) -> None:
    loop = make_loop(tmp_path, make_engine(tmp_path))
    with torch.no_grad():
        loop.learner.params["rank.weight"].fill_(float("inf"))
    dense = {name: raw for name, raw in weights(loop).items() if not name.startswith("rows.")}
    with pytest.raises(LearningHalted, match="5 batches"):
        feed(loop, log)
    after = weights(loop)
    assert {name: after[name] for name in dense} == dense
    assert loop.learner.counters["trained"] == 0
    assert loop.progress.version == 0


def test_sessions_under_a_hold_are_counted_and_not_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    values = [encode(make_session(number, rng, watermark_ts=START_TS + number * 1_000)) for number in range(9)]
    values.insert(3, encode(make_progress(0, START_TS + 2_000, hold=["ctr"])))
    values.insert(7, encode(make_progress(0, START_TS + 5_000)))
    values.append(encode(make_progress(0, START_TS + 90_000)))
    six = replace(LINEAGE, learning=replace(LINEAGE.learning, batch=6))
    settings = replace(SETTINGS, breakers=False)
    loop = make_loop(tmp_path, make_engine(tmp_path), partitions=1, lineage=six, settings=settings)
    feed(loop, single_partition(values))
    assert loop.learner.counters == {"held": 3, "trained": 6}


def spread(count: int, step_ms: int) -> list[LogRecord]:
    """Sessions of one partition, each with an order, `step_ms` of watermark time apart."""
    rng = np.random.default_rng(5)
    sessions = [
        make_session(number, rng, watermark_ts=START_TS + number * step_ms, orders=[0]) for number in range(count)
    ]
    return single_partition([*map(encode, sessions), encode(make_progress(0, START_TS + count * step_ms + 60_000))])


@pytest.mark.no_cover
@pytest.mark.parametrize("step_ms", [10, 1_000, 7_000, 100_000])
def test_every_step_has_a_full_batch_at_any_traffic(
    tmp_path: Path, step_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    train = Learner.train

    def count(self: Learner, lists: TrainingLists) -> Step:
        sizes.append(len(lists.examples))
        return train(self, lists)

    monkeypatch.setattr(Learner, "train", count)
    loop = make_loop(tmp_path, make_engine(tmp_path), partitions=1, settings=UNSAVED)
    feed(loop, spread(70, step_ms))
    assert sizes == [16] * 4
    assert len(loop.learner.pending) == 70 - 64


@pytest.mark.no_cover
def test_waiting_sessions_survive_a_restart_at_any_record(tmp_path: Path) -> None:
    records = spread(70, 7_000)
    whole = make_loop(tmp_path / "whole", make_engine(tmp_path), partitions=1, settings=UNSAVED)
    feed(whole, records)
    for end in (9, 30, 47):
        folder = tmp_path / str(end)
        folder.mkdir()
        engine = make_engine(folder)
        feed(make_loop(folder, engine, partitions=1, settings=UNPUBLISHED), records[:end])
        resumed = make_loop(folder, engine, partitions=1, settings=UNPUBLISHED)
        feed(resumed, records)
        assert weights(resumed) == weights(whole)
        assert [one.session.query_id for one in resumed.learner.pending] == [
            one.session.query_id for one in whole.learner.pending
        ]
        assert resumed.learner.counters == whole.learner.counters


@pytest.mark.no_cover
def test_after_a_full_change_of_the_assortment_few_candidates_share_the_cold_row_within_a_day(tmp_path: Path) -> None:
    hours, per_hour, step_ms = 24, 12, 300_000
    rng = np.random.default_rng(11)
    values: list[bytes] = []
    for number in range(2 * hours * per_hour):
        one = make_session(
            number, rng, watermark_ts=START_TS + number * step_ms, orders=[0] if number % 4 == 0 else None
        )
        if number >= hours * per_hour:
            one.item_id = [f"new-{name}" for name in one.item_id]
            one.hist_item = [f"new-{name}" for name in one.hist_item]
        values.append(encode(one))
    # As many rows as there are live items: 40, the padding row and the cold row.
    lineage = replace(
        LINEAGE,
        model="mlp",
        config=replace(MODEL_PROFILES["mlp"]["tiny"], vocabulary=Vocabulary(item=42)),
        learning=LearningSettings(batch=per_hour, checkpoint_s=3_600),
    )
    loop = make_loop(tmp_path, make_engine(tmp_path), partitions=1, settings=UNSAVED, lineage=lineage)
    loop.start()
    shares: list[float] = []
    for start in range(0, len(values), per_hour):
        before = loop.learner.candidates.copy()
        hour = values[start : start + per_hour]
        loop.push([LogRecord(0, start + offset, value) for offset, value in enumerate(hour)])
        counted = loop.learner.candidates - before
        cold, own = counted["item", "cold"], counted["item", "own"]
        shares.append(cold / max(cold + own, 1))
    assert max(shares[hours - 12 : hours]) < 0.05
    # A batch is full an hour after its first session.
    assert shares[hours + 1] > 0.9, "no new item has a row at once"
    assert shares[-1] < 0.05


def test_a_model_of_whole_pages_learns_from_the_log_and_resumes_bit_by_bit() -> None:
    make_deterministic(1)
    rng = np.random.default_rng(6)
    shop = Catalogue(make_items())
    sessions = [make_session(number, rng, watermark_ts=START_TS + number, orders=[0]) for number in range(24)]
    placed = [OrderedSession(Key(one.watermark_ts, 0, offset), one) for offset, one in enumerate(sessions)]

    def learn(own: Learner, first: int, end: int) -> Step:
        return own.learn(SessionBatch(tuple(placed[first:end]), (False,) * (end - first)), shop)

    learning = LearningSettings(batch=8, lr=0.01)
    whole, first, second = (
        Learner("pier", MODEL_PROFILES["pier"]["tiny"], learning, device=torch.device("cpu")) for _ in range(3)
    )
    for own in (whole, first):
        own.at_boundary(START_TS, None)
    assert set(learn(whole, 0, 24).losses) == {"main", "page"}
    learn(first, 0, 13)
    second.restore(first.to_files(), first.state(first.prequential), START_TS)
    learn(second, 13, 24)
    for name, values in whole.params.items():
        assert torch.equal(values, second.params[name]), name
    evaluator = [name for name in whole.params if name.startswith("evaluator.")]
    fresh = MODELS["pier"].init(MODEL_PROFILES["pier"]["tiny"], learning.seed)
    assert all(not torch.equal(whole.params[name], fresh[name]) for name in evaluator if "weight" in name)
