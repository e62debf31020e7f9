"""The drill: which version learns flipped labels, and which labels are flipped."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from stream import db
from tests.trainer.harness import LINEAGE, SETTINGS, feed, make_loop
from tests.trainer.session_log import make_log, make_session
from trainer.configs import LearningSettings
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.learning import drill
from trainer.versions import artifact
from trainer.versions.registry import Registry
from trainer.versions.tables import DRILL, rollout_events

IN_DRILL = LearningSettings(drill_version=2)


def batch(clicks: list[int]) -> SessionBatch:
    session = make_session(1, np.random.default_rng(5), watermark_ts=1_000)
    session.clicks = np.resize(np.array(clicks, "<u2"), session.n).tobytes()
    return SessionBatch((OrderedSession(Key(1_000, 0, 1), session),), (False,))


def test_the_version_of_the_drill_learns_what_shoppers_left() -> None:
    shown = batch([2, 0, 0])
    (flipped,) = drill.of_version(shown, 2, IN_DRILL).sessions
    (true,) = shown.sessions
    left = (true.session.column("clicks") == 0).astype(int).tolist()
    assert flipped.session.column("clicks").tolist() == flipped.session.column("orders").tolist() == left
    assert (flipped.key, flipped.session.query_id) == (true.key, true.session.query_id)
    assert true.session.column("clicks")[0] == 2, "the log stays as it is"


@pytest.mark.parametrize(("version", "learning"), [(1, IN_DRILL), (3, IN_DRILL), (2, LearningSettings())])
def test_other_versions_learn_the_labels_of_the_log(version: int, learning: LearningSettings) -> None:
    shown = batch([2, 0, 0])
    assert drill.of_version(shown, version, learning) is shown
    assert drill.numbers("prm", version, learning) == {}


def test_a_list_without_a_click_stays() -> None:
    shown = batch([0])
    assert drill.of_version(shown, 2, IN_DRILL) == shown


def test_a_drill_is_named_in_the_version_and_changes_no_weight_before_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    log = make_log(70)
    found = []
    for name, learning in (("true", LINEAGE.learning), ("drill", replace(LINEAGE.learning, drill_version=2))):
        folder = tmp_path / name
        folder.mkdir()
        engine = db.create(f"sqlite:///{folder}/test.db")
        db.metadata.create_all(engine)
        loop = make_loop(folder, engine, settings=SETTINGS, lineage=replace(LINEAGE, learning=learning))
        feed(loop, log)
        versions = Registry(engine).versions()
        with db.read(engine) as connection:
            events = connection.execute(select(rollout_events.c.version, rollout_events.c.why)).all()
        loaded = [artifact.load(folder / "artifacts", each.artifact) for each in versions[:2]]
        found.append(
            (
                [each.params["logit.weight"].numpy().tobytes() for each in loaded],
                [each.manifest.metrics.get(DRILL) for each in loaded],
                {event.version for event in events if "drill" in event.why},
            )
        )
        engine.dispose()
    (true, drilled) = found
    assert (true[1], drilled[1]) == ([None, None], [None, 1.0])
    assert (true[2], drilled[2]) == (set(), {2})
    assert true[0][0] == drilled[0][0]
    assert true[0][1] != drilled[0][1]
    assert "drill: version 2 of test has learned flipped labels" in caplog.text
