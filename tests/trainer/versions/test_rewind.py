"""After a rollback training goes on from the last good version, as if it had never gone past it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from stream import db
from stream.errors import ConfigError
from stream.schemas.session import Session, decode, encode
from tests.trainer.harness import LINEAGE, SETTINGS, Crash, feed, make_loop, weights
from tests.trainer.session_log import LogRecord, make_log, make_progress
from trainer.feed.batches import Position
from trainer.loop import Loop
from trainer.rollout import changes
from trainer.rollout.changes import RewindMode
from trainer.rollout.store import RolloutStore
from trainer.versions import artifact, checkpoint, rewind
from trainer.versions.artifact import Manifest
from trainer.versions.checkpoint import Origin, State
from trainer.versions.event_log import Event
from trainer.versions.registry import Registry, Rewind, Version

NAME = LINEAGE.name
OFTEN = replace(LINEAGE, learning=replace(LINEAGE.learning, batch=4, checkpoint_s=5))
FEW = replace(SETTINGS, publish_s=10, keep_checkpoints=2)
# Versions 1 to 4 have been published, and sessions behind the boundary of the last one have been learned.
READ = 92


@pytest.fixture(scope="module")
def log() -> list[LogRecord]:
    return make_log(70)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, log: list[LogRecord]) -> Path:
    """The home of a trainer that has published versions 1 to 4, the last of which is live."""
    folder = tmp_path_factory.mktemp("home")
    engine = engine_of(folder)
    db.metadata.create_all(engine)
    feed(trainer(folder, engine), log[:READ])
    assert [each.version for each in Registry(engine).versions()] == [1, 2, 3, 4]
    engine.dispose()
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, log: list[LogRecord]) -> Loop:
    """A trainer that has read the log without a rollback."""
    return run_without_rollback(tmp_path_factory.mktemp("undisturbed"), log)


def run_without_rollback(folder: Path, log: list[LogRecord]) -> Loop:
    engine = engine_of(folder)
    db.metadata.create_all(engine)
    loop = trainer(folder, engine)
    feed(loop, log)
    return loop


def engine_of(folder: Path) -> Engine:
    return db.create(f"sqlite:///{folder}/test.db")


def trainer(folder: Path, engine: Engine, crash_at: str | None = None, origin: Origin | None = None) -> Loop:
    def crash(name: str) -> None:
        if name == crash_at:
            raise Crash(name)

    return make_loop(folder, engine, lineage=OFTEN, settings=FEW, failpoint=crash, origin=origin)


def rolled_back(home: Path, folder: Path, mode: RewindMode = "replay") -> Engine:
    """Copy the home, roll version 4 back to version 3, and return the database."""
    shutil.copytree(home, folder, dirs_exist_ok=True)
    engine = engine_of(folder)
    RolloutStore(engine).command(
        NAME, "rollback", lambda v: changes.rollback(v, None, mode, "bad"), user="ada", request_id=None, now_ms=1
    )
    assert Registry(engine).rewind(NAME) == Rewind(to=3, mode=mode)
    return engine


def events(engine: Engine) -> list[Event]:
    return [event for event in RolloutStore(engine).history(NAME) if event.to_status == "rewound"]


def newest_state(folder: Path) -> State:
    state = checkpoint.newest_state(folder / "checkpoints")
    assert state is not None
    return state


def manifest_of(folder: Path, version: Version) -> Manifest:
    return artifact.read_manifest(folder / "artifacts", version.artifact)


def check_versions(engine: Engine) -> None:
    """Numbers rise without a gap, and the versions since the rollback stem from version 3."""
    versions = Registry(engine).versions(NAME)
    assert [each.version for each in versions] == list(range(1, 9))
    assert [each.status for each in versions[2:]] == ["live", "rolled_back", *["verified"] * 4]
    assert [each.parent for each in versions[4:]] == [versions[2].artifact, *(v.artifact for v in versions[4:-1])]
    assert Registry(engine).rewind(NAME) is None


def test_replay_gives_the_weights_of_a_run_that_never_went_past_the_good_version(
    home: Path, tmp_path: Path, log: list[LogRecord], undisturbed: Loop
) -> None:
    engine = rolled_back(home, tmp_path)
    loop = trainer(tmp_path, engine)
    offsets = loop.start()
    versions = Registry(engine).versions(NAME)
    good = manifest_of(tmp_path, versions[2])
    assert offsets == {partition: cursor.next_offset for partition, cursor in good.cursors.items()}
    boundaries = [checkpoint.load(path).state for path in (tmp_path / "checkpoints").glob("0*")]
    assert max(state.position.boundary_ts or 0 for state in boundaries) == good.boundary_ts, "no bad one is left"
    (event,) = events(engine)
    assert (event.version, event.actor, event.why) == (
        3,
        "trainer, term 3",
        "training goes on from the state of version 3: replay",
    )
    assert event.evidence == {
        "mode": "replay",
        "parent": versions[2].artifact,
        "boundary_ts": good.boundary_ts,
        "offsets": {str(partition): offset for partition, offset in offsets.items()},
        "skipped": None,
    }

    feed(loop, log)
    assert weights(loop) == weights(undisturbed)
    assert loop.learner.counters == undisturbed.learner.counters
    check_versions(engine)
    first, bad = (artifact.load(tmp_path / "artifacts", v.artifact) for v in Registry(engine).versions(NAME)[4:2:-1])
    assert first.manifest.boundary_ts == bad.manifest.boundary_ts
    assert all((weight == bad.params[name]).all() for name, weight in first.params.items())


def without(log: list[LogRecord], from_ts: int, until_ts: int) -> list[LogRecord]:
    """Return the log with progress records in place of the sessions of a range."""

    def replaced(record: LogRecord) -> LogRecord:
        content = decode(record.value)
        if isinstance(content, Session) and from_ts <= content.watermark_ts < until_ts:
            content = make_progress(record.partition, content.watermark_ts)
        return LogRecord(record.partition, record.offset, encode(content))

    return [replaced(record) for record in log]


def test_skip_leaves_the_range_of_the_bad_version_out_and_records_it(
    home: Path, tmp_path: Path, log: list[LogRecord]
) -> None:
    engine = rolled_back(home, tmp_path / "own", "skip")
    good, bad = (manifest_of(tmp_path / "own", each) for each in Registry(engine).versions(NAME)[2:4])
    loop = trainer(tmp_path / "own", engine)
    feed(loop, log[:110])
    assert Registry(engine).rewind(NAME) is None, "it has published since"
    resumed = trainer(tmp_path / "own", engine)
    feed(resumed, log)

    (tmp_path / "other").mkdir()
    expected = run_without_rollback(tmp_path / "other", without(log, good.boundary_ts, bad.boundary_ts))
    assert weights(resumed) == weights(expected)
    assert resumed.learner.counters["trained"] == expected.learner.counters["trained"]
    assert resumed.learner.counters["rolled_back"] > 5
    (event,) = events(engine)
    recorded = {
        "from_offsets": {str(partition): cursor.next_offset for partition, cursor in good.cursors.items()},
        "until_offsets": {str(partition): cursor.next_offset for partition, cursor in bad.cursors.items()},
        "from_ts": good.boundary_ts,
        "until_ts": bad.boundary_ts,
    }
    assert event.evidence["skipped"] == recorded
    (skipped,) = newest_state(tmp_path / "own").skipped
    assert skipped.until_offsets == {partition: cursor.next_offset for partition, cursor in bad.cursors.items()}
    assert (skipped.from_ts, skipped.until_ts) == (good.boundary_ts, bad.boundary_ts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "rewind.before_event",
        "rewind.after_event",
        "rewind.after_removal",
        "checkpoint.after_rename",
        "artifact.after_rename",
        "before_row",
        "after_row",
        "after_verified",
    ],
)
def test_a_crash_at_any_step_of_the_way_back_changes_nothing(
    home: Path, tmp_path: Path, log: list[LogRecord], undisturbed: Loop, point: str
) -> None:
    engine = rolled_back(home, tmp_path)
    with pytest.raises(Crash):
        feed(trainer(tmp_path, engine, crash_at=point), log)
    has_published = len(Registry(engine).versions(NAME)) > 4
    assert (Registry(engine).rewind(NAME) is None) == has_published
    resumed = trainer(tmp_path, engine)
    feed(resumed, log)
    assert weights(resumed) == weights(undisturbed)
    assert resumed.learner.counters == undisturbed.learner.counters
    check_versions(engine)
    assert len(events(engine)) == (1 if has_published or point == "rewind.before_event" else 2)


def test_without_a_good_version_training_starts_from_fresh_weights(
    home: Path, tmp_path: Path, log: list[LogRecord], undisturbed: Loop
) -> None:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    engine = engine_of(tmp_path)
    with db.transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE versions SET live_since = NULL WHERE status = 'superseded'")
    RolloutStore(engine).command(
        NAME, "rollback", lambda v: changes.rollback(v, None, "replay", "bad"), user="ada", request_id=None, now_ms=1
    )
    assert Registry(engine).rewind(NAME) == Rewind(to=0, mode="replay")
    with pytest.raises(Crash):
        feed(trainer(tmp_path, engine, crash_at="checkpoint.after_rename"), log)
    loop = trainer(tmp_path, engine)
    feed(loop, log)
    assert weights(loop) == weights(undisturbed)
    versions = Registry(engine).versions(NAME)
    assert (versions[4].version, versions[4].parent) == (5, None)
    assert {each.evidence["parent"] for each in events(engine)} == {None}
    assert events(engine)[0].version is None


@pytest.mark.parametrize(("damage", "why"), [("missing", "is not there"), ("damaged", "is damaged: .*dense")])
def test_without_its_checkpoint_the_way_out_is_a_warm_start_from_the_good_version(
    home: Path, tmp_path: Path, log: list[LogRecord], damage: str, why: str
) -> None:
    engine = rolled_back(home, tmp_path)
    good = Registry(engine).versions(NAME)[2]
    checkpoints = tmp_path / "checkpoints"
    own = checkpoint.of_version(checkpoints, good.artifact)
    assert own is not None
    if damage == "missing":
        shutil.rmtree(own)
    else:
        (own / "dense.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=f"version 3, whose checkpoint {why}.*--warm-start {NAME}:3"):
        trainer(tmp_path, engine).start()
    assert events(engine) == []

    checkpoints.rename(tmp_path / "bad")
    boundary_ts = manifest_of(tmp_path, good).boundary_ts
    origin = Origin(lineage=NAME, version=3, artifact=good.artifact, boundary_ts=boundary_ts)
    with pytest.raises(Crash):
        feed(trainer(tmp_path, engine, crash_at="before_row", origin=origin), log)
    # A restart with the same options finds that the checkpoints started from this version.
    feed(trainer(tmp_path, engine), log)
    first = Registry(engine).versions(NAME)[4]
    assert (first.version, first.parent) == (5, None)
    assert manifest_of(tmp_path, first).origin == origin
    assert newest_state(tmp_path).origin == origin
    assert Registry(engine).rewind(NAME) is None


def test_a_version_of_the_bad_state_that_was_not_yet_recorded_gets_no_row(
    home: Path, tmp_path: Path, log: list[LogRecord], undisturbed: Loop
) -> None:
    """A crash before the row of version 5, which stems from version 4: the rollback comes first."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    engine = engine_of(tmp_path)
    with pytest.raises(Crash):
        feed(trainer(tmp_path, engine, crash_at="before_row"), log)
    assert newest_state(tmp_path).published.version == 5
    rolled_back(tmp_path, tmp_path / "own").dispose()
    engine = engine_of(tmp_path / "own")
    loop = trainer(tmp_path / "own", engine)
    feed(loop, log)
    assert weights(loop) == weights(undisturbed)
    check_versions(engine)


def test_checkpoints_after_the_way_back_are_newer_than_all_that_stay(
    home: Path, tmp_path: Path, log: list[LogRecord], undisturbed: Loop
) -> None:
    engine = rolled_back(home, tmp_path)
    with db.transaction(engine) as connection:
        # Not trained from version 3, so the rollback left it alone, and it may be live again.
        connection.exec_driver_sql("UPDATE versions SET status = 'superseded', live_since = 5 WHERE version = 4")
    feed(trainer(tmp_path, engine), log[:READ])
    assert Registry(engine).rewind(NAME) is None
    assert newest_state(tmp_path).published.version == Registry(engine).versions(NAME)[-1].version == 5
    resumed = trainer(tmp_path, engine)
    feed(resumed, log)
    assert weights(resumed) == weights(undisturbed)


def test_a_range_whose_end_is_unknown_is_not_skipped(home: Path, tmp_path: Path) -> None:
    engine = rolled_back(home, tmp_path, "skip")
    shutil.rmtree(tmp_path / "artifacts" / Registry(engine).versions(NAME)[3].artifact)
    with pytest.raises(ConfigError, match=r"the range of version 4 cannot be left out: .*replay"):
        trainer(tmp_path, engine).start()
    assert events(engine) == []


def test_no_range_is_skipped_if_no_bad_version_has_learned_more(home: Path, tmp_path: Path) -> None:
    engine = rolled_back(home, tmp_path, "skip")
    versions, artifacts = Registry(engine).versions(NAME), tmp_path / "artifacts"
    demand = Rewind(to=3, mode="skip")
    good, bad = (manifest_of(tmp_path, each) for each in versions[2:4])
    starts = [Position(cursors={}, boundary_ts=own.boundary_ts) for own in (good, bad)]
    assert [rewind.skipped_range(demand, versions, artifacts, each) is None for each in starts] == [False, True]
    assert rewind.skipped_range(demand, versions[:3], artifacts, starts[0]) is None
    # A gate has refused it, and the policy sends the trainer back.
    rejected = [*versions[:3], replace(versions[3], status="rejected")]
    assert rewind.skipped_range(demand, rejected, artifacts, starts[0]) is not None
    # An older version was live again when it was rolled back: the one to go back to has learned more.
    assert rewind.skipped_range(Rewind(to=5, mode="skip"), versions, artifacts, starts[0]) is None


@pytest.mark.parametrize("started_from", ["other", NAME])
def test_without_a_good_version_a_warm_start_from_another_lineage_is_repeated(
    tmp_path: Path, started_from: str
) -> None:
    origin = Origin(lineage=started_from, version=4, artifact="a" * 64, boundary_ts=1)
    found = rewind.find_state(Rewind(to=0, mode="replay"), NAME, [], tmp_path, origin)
    assert found == (origin if started_from == "other" else None)


def test_training_waits_for_a_decision(home: Path, tmp_path: Path) -> None:
    engine = rolled_back(home, tmp_path, "wait")
    with pytest.raises(ConfigError, match=f"lineage {NAME} waits after a rollback to version 3"):
        trainer(tmp_path, engine).start()
