"""The same log gives the same weights after any crash or refused write."""

import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from stream import db
from stream.schemas.session import encode
from tests.trainer.harness import SETTINGS, Crash, feed, make_loop, weights
from tests.trainer.session_log import START_TS, LogRecord, make_log, make_progress, make_session
from trainer.learning.learner import LearningHalted
from trainer.versions import artifact
from trainer.versions.registry import Registry

POINTS = [
    f"{place}.{step}"
    for place in ("artifact", "checkpoint")
    for step in ("before_write", "after_write", "after_fsync", "before_rename", "after_rename")
] + ["before_row", "after_row", "after_verified", "after_live"]


def make_engine(folder: Path) -> Engine:
    engine = db.create(f"sqlite:///{folder}/test.db")
    db.metadata.create_all(engine)
    return engine


@pytest.fixture(scope="module")
def log() -> list[LogRecord]:
    return make_log()


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, log: list[LogRecord]
) -> tuple[dict[str, bytes], dict[str, int], int]:
    folder = tmp_path_factory.mktemp("undisturbed")
    loop = make_loop(folder, make_engine(folder))
    feed(loop, log)
    return weights(loop), dict(loop.learner.counters), loop.progress.version


def crash_at(point: str, visit: int) -> Callable[[str], None]:
    visits = 0

    def failpoint(name: str) -> None:
        nonlocal visits
        visits += name == point
        if name == point and visits == visit:
            raise Crash(point)

    return failpoint


def test_run_trains_and_publishes(undisturbed: tuple[dict[str, bytes], dict[str, int], int]) -> None:
    _, counters, version = undisturbed
    assert counters["trained"] == 240 + 80
    assert version == 6


@pytest.mark.parametrize("piece", [1, 10_000])
def test_same_log_same_weights_at_any_poll_size(
    tmp_path: Path, log: list[LogRecord], undisturbed: tuple[dict[str, bytes], dict[str, int], int], piece: int
) -> None:
    loop = make_loop(tmp_path, make_engine(tmp_path))
    feed(loop, sorted(log, key=lambda record: record.partition) if piece > 1 else log, piece)
    assert weights(loop) == undisturbed[0]
    assert dict(loop.learner.counters) == undisturbed[1]


@pytest.mark.slow
@pytest.mark.parametrize("visit", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_crash_at_each_point_resumes_to_equal_weights(
    tmp_path: Path,
    log: list[LogRecord],
    undisturbed: tuple[dict[str, bytes], dict[str, int], int],
    point: str,
    visit: int,
) -> None:
    engine = make_engine(tmp_path)
    with pytest.raises(Crash):
        feed(make_loop(tmp_path, engine, failpoint=crash_at(point, visit)), log)
    resumed = make_loop(tmp_path, engine)
    feed(resumed, log)
    assert weights(resumed) == undisturbed[0]
    assert dict(resumed.learner.counters) == undisturbed[1]
    versions = Registry(engine).versions("test")
    assert [version.version for version in versions] == list(range(1, undisturbed[2] + 1))
    assert [version.status for version in versions] == ["superseded"] * (undisturbed[2] - 1) + ["live"]
    assert [version.parent for version in versions[1:]] == [version.artifact for version in versions[:-1]]
    for version in versions:
        artifact.verify_golden(artifact.load(tmp_path / "artifacts", version.artifact))


def test_resume_from_the_checkpoint_before_when_the_newest_is_damaged(
    tmp_path: Path, log: list[LogRecord], undisturbed: tuple[dict[str, bytes], dict[str, int], int]
) -> None:
    engine = make_engine(tmp_path)
    feed(make_loop(tmp_path, engine), log[:200])
    newest = sorted((tmp_path / "checkpoints").glob("0*"))[-1]
    damaged = newest / "weights.safetensors"
    raw = bytearray(damaged.read_bytes())
    raw[-5] ^= 1
    damaged.write_bytes(bytes(raw))
    resumed = make_loop(tmp_path, engine)
    feed(resumed, log)
    assert weights(resumed) == undisturbed[0]


def test_a_repeated_record_is_not_trained_twice(tmp_path: Path, log: list[LogRecord]) -> None:
    repeated = [record for record in log[:100] if record.partition == 0]
    shift = len(repeated)
    doubled = (
        log[:100]
        + [LogRecord(0, record.offset + shift, record.value) for record in repeated]
        + [LogRecord(r.partition, r.offset + (shift if r.partition == 0 else 0), r.value) for r in log[100:]]
    )
    loop = make_loop(tmp_path, make_engine(tmp_path))
    feed(loop, doubled)
    assert loop.learner.counters["trained"] == 240 + 80
    assert 0 < loop.learner.counters["repeated"] < shift


def single_partition(records: list[bytes]) -> list[LogRecord]:
    return [LogRecord(0, offset, value) for offset, value in enumerate(records)]


def poisoned(count: int, *, every: int) -> list[LogRecord]:
    """Sessions of one partition, one batch each; every so many hold a NaN feature."""
    rng = np.random.default_rng(5)
    values: list[bytes] = []
    for number in range(count):
        session = make_session(number, rng, watermark_ts=START_TS + number * 10_000, orders=[0])
        if number % every == every - 1:
            features = np.frombuffer(session.item_f16, "<f2").copy()
            features[0] = np.nan
            session.item_f16 = features.tobytes()
        values.append(encode(session))
    values.append(encode(make_progress(0, START_TS + count * 10_000 + 60_000)))
    return single_partition(values)


def test_a_session_with_nan_leaves_the_weights_untouched(tmp_path: Path) -> None:
    no_marks = replace(SETTINGS, checkpoint_s=10_000, publish_s=10_000)
    loop = make_loop(tmp_path, make_engine(tmp_path), partitions=1, settings=no_marks)
    log = poisoned(4, every=4)
    before: list[dict[str, bytes]] = []
    offsets = loop.start()
    assert offsets == {0: 0}
    for record in log:
        loop.push([record])
        before.append(weights(loop))
    assert loop.learner.counters == {"rejected_features": 1, "trained": 3}
    # A session is trained, or refused, when the record behind it crosses the grid.
    assert before[3] == before[4]
    assert before[0] != before[2]


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
    loop = make_loop(tmp_path, make_engine(tmp_path), partitions=1)
    feed(loop, single_partition(values))
    assert loop.learner.counters == {"held": 3, "trained": 6}


def test_undecodable_records_are_passed_over(tmp_path: Path, log: list[LogRecord]) -> None:
    loop = make_loop(tmp_path, make_engine(tmp_path), partitions=1)
    feed(loop, single_partition([b"\xff", *(r.value for r in log if r.partition == 0)]))
    assert loop.progress.num_undecodable == 1
    assert loop.learner.counters["trained"] > 0


def test_every_checkpoint_is_skipped_but_those_of_versions_when_the_wall_clock_stands(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    rare = replace(SETTINGS, checkpoint_every_wall_s=60)
    loop = make_loop(tmp_path, engine, settings=rare)
    feed(loop, make_log())
    assert loop.progress.num_boundaries > loop.progress.num_published == 6
    assert len(list((tmp_path / "checkpoints").glob("0*"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("visit", [1, 2])
@pytest.mark.parametrize("step", ["before_write", "after_write", "after_fsync", "before_rename"])
@pytest.mark.parametrize("place", ["artifact", "checkpoint"])
def test_a_write_that_the_file_system_refuses_is_retried_and_learning_goes_on(
    tmp_path: Path,
    log: list[LogRecord],
    undisturbed: tuple[dict[str, bytes], dict[str, int], int],
    place: str,
    step: str,
    visit: int,
) -> None:
    visits = 0

    def full_disk(name: str) -> None:
        nonlocal visits
        visits += name == f"{place}.{step}"
        if name == f"{place}.{step}" and visits == visit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    engine = make_engine(tmp_path)
    ticks = itertools.count()
    loop = make_loop(tmp_path, engine, failpoint=full_disk, monotonic_s=lambda: float(next(ticks)))
    feed(loop, log)
    assert loop.progress.num_failed_writes == 1
    assert weights(loop) == undisturbed[0]
    assert dict(loop.learner.counters) == undisturbed[1]
    versions = Registry(engine).versions("test")
    assert [version.version for version in versions] == list(range(1, undisturbed[2] + 1))
    assert [version.parent for version in versions[1:]] == [version.artifact for version in versions[:-1]]
    for version in versions:
        artifact.verify_golden(artifact.load(tmp_path / "artifacts", version.artifact))
    assert not list((tmp_path / place.replace("artifact", "artifacts").replace("point", "points")).glob(".tmp-*"))
    resumed = make_loop(tmp_path, engine)
    feed(resumed, log)
    assert weights(resumed) == undisturbed[0]


def test_after_a_refused_write_the_next_attempt_waits_for_the_back_off(tmp_path: Path, log: list[LogRecord]) -> None:
    attempts = 0

    def always_full(name: str) -> None:
        nonlocal attempts
        if name == "checkpoint.before_write":
            attempts += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    loop = make_loop(tmp_path, make_engine(tmp_path), failpoint=always_full)
    feed(loop, log)
    assert loop.progress.num_boundaries > 2
    assert attempts == loop.progress.num_failed_writes == 1
    assert loop.progress.version == 0
