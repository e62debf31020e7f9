"""The drill: which labels are flipped, and which version learns them."""

import logging
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from stream import db
from tests.trainer.harness import LINEAGE, feed, make_loop
from tests.trainer.session_log import LogRecord, make_log, make_session
from trainer.feed.batches import OrderedSession, SessionBatch
from trainer.feed.merge import Key
from trainer.learning import drill
from trainer.rollout import changes
from trainer.rollout.store import RolloutStore
from trainer.versions import artifact
from trainer.versions.registry import Registry
from trainer.versions.tables import DRILL


def batch(clicks: list[int]) -> SessionBatch:
    session = make_session(1, np.random.default_rng(5), watermark_ts=1_000)
    session.clicks = np.resize(np.array(clicks, "<u2"), session.n).tobytes()
    return SessionBatch((OrderedSession(Key(1_000, 0, 1), session),), (False,))


def test_the_labels_of_a_drill_are_what_shoppers_left() -> None:
    shown = batch([2, 0, 0])
    (flipped,) = drill.flipped(shown).sessions
    (true,) = shown.sessions
    left = (true.session.column("clicks") == 0).astype(int).tolist()
    assert flipped.session.column("clicks").tolist() == flipped.session.column("orders").tolist() == left
    assert (flipped.key, flipped.session.query_id) == (true.key, true.session.query_id)
    assert true.session.column("clicks")[0] == 2, "the log stays as it is"


def test_a_list_without_a_click_stays() -> None:
    shown = batch([0])
    assert drill.flipped(shown) == shown


def run(folder: Path, log: list[LogRecord], drill_version: int, restart_at: int | None = None) -> Engine:
    """Train on a log, if asked with a restart, in a lineage whose policy names the version of a drill."""
    folder.mkdir()
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    loop = make_loop(folder, engine)
    RolloutStore(engine).command(
        LINEAGE.name,
        "policy",
        lambda view: changes.set_policy(view, {"drill_version": drill_version}, "test"),
        user="ada",
        request_id=None,
        now_ms=1,
    )
    feed(loop, log[:restart_at])
    if restart_at is not None:
        feed(make_loop(folder, engine), log)
    return engine


def learned(folder: Path, engine: Engine) -> list[bytes]:
    versions = [artifact.load(folder / "artifacts", each.artifact) for each in Registry(engine).versions()]
    return [each.params["logit.weight"].numpy().tobytes() for each in versions]


def test_only_the_version_of_the_drill_learns_flipped_labels_and_it_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    log = make_log(70)
    true, drilled = (run(tmp_path / name, log, number) for name, number in (("true", 0), ("drill", 2)))
    before, after = learned(tmp_path / "true", true), learned(tmp_path / "drill", drilled)
    assert len(before) >= 2
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    marked = [
        [DRILL in each.metrics for each in RolloutStore(engine).view(LINEAGE.name).versions]
        for engine in (true, drilled)
    ]
    assert marked == [[False] * len(before), [number == 1 for number in range(len(after))]]
    events = RolloutStore(drilled).history(LINEAGE.name)
    assert {each.version for each in events if "a drill with flipped labels" in each.why} == {2}
    assert "drill: version 2 of test has learned flipped labels" in caplog.text


def test_a_restart_in_a_drill_goes_on_with_it(tmp_path: Path) -> None:
    log = make_log(70)
    whole, broken = run(tmp_path / "whole", log, 2), run(tmp_path / "broken", log, 2, restart_at=60)
    assert learned(tmp_path / "whole", whole) == learned(tmp_path / "broken", broken)
