"""Retention of versions: the registry retires, then the folder goes; orphans go after a day."""

import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from stream import db
from stream.errors import ArtifactError, ConfigError, FencedError, StoreError
from stream.failpoints import no_failpoint
from tests.serving.world import publish, publish_delta
from tests.trainer.harness import LINEAGE, SETTINGS, Crash, feed, make_loop
from tests.trainer.session_log import make_log
from trainer.rollout import changes
from trainer.rollout.store import RolloutStore
from trainer.versions import artifact, checkpoint, removal
from trainer.versions.publisher import ORPHAN_AGE_MS, Publisher
from trainer.versions.registry import Registry
from trainer.versions.signature import NO_KEYS, VersionKeys

KEEP_THREE = replace(SETTINGS, keep_versions=3, version_delta_share=0)
DELTAS_OF_THREE = replace(KEEP_THREE, version_delta_share=1)
HOUR_MS = 3_600_000


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    return engine


def on_disk(folder: Path) -> set[str]:
    return {path.name for path in (folder / "artifacts").iterdir() if artifact.is_address(path.name)}


def publisher(
    engine: Engine, folder: Path, *, term: int, now_ms: Callable[[], int], keys: VersionKeys = NO_KEYS
) -> Publisher:
    return Publisher(
        Registry(engine),
        folder / "artifacts",
        LINEAGE.name,
        term,
        announce=lambda _: None,
        now_ms=now_ms,
        keep_versions=3,
        failpoint=no_failpoint,
        keys=keys,
    )


def test_a_trainer_signs_full_versions_and_deltas_and_goes_on_from_unsigned_ones(
    engine: Engine, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, version_delta_share=1)
    log = make_log(200)
    feed(make_loop(tmp_path, engine, settings=settings), log[: len(log) // 2])
    num_unsigned = len(Registry(engine).versions())
    keys = VersionKeys((bytes(32),))
    feed(make_loop(tmp_path, engine, settings=settings, keys=keys), log)
    versions = Registry(engine).versions()
    folder = tmp_path / "artifacts"
    bases = [artifact.load(folder, version.artifact, keys=keys).manifest.base for version in versions[num_unsigned:]]
    assert num_unsigned >= 2
    assert bases[0] is None, "servers would refuse a delta of a version that is not signed"
    assert set(bases[1:]) == {versions[num_unsigned].artifact}
    assert versions[-1].status == "live"


def test_a_written_version_without_a_signature_is_rejected(engine: Engine, tmp_path: Path) -> None:
    registry = Registry(engine)
    registry.ensure_lineage(LINEAGE.name, "mlp", "tiny", "0" * 64)
    term = registry.leases.acquire(LINEAGE.name, "test", 0, 1_000_000)
    address = publish(tmp_path / "artifacts", LINEAGE.name, 1)
    registering = publisher(engine, tmp_path, term=term, now_ms=lambda: 0, keys=VersionKeys((bytes(32),)))
    with pytest.raises(ArtifactError, match="it is not signed"):
        registering.register(address)
    assert [version.status for version in registry.versions()] == ["rejected"]


def test_it_tells_whether_versions_go_live_by_gates_and_which_one_is_live(engine: Engine, tmp_path: Path) -> None:
    registry = Registry(engine)
    registry.ensure_lineage(LINEAGE.name, "prm", "tiny", "h" * 64)
    term = registry.leases.acquire(LINEAGE.name, "one", 0, 10**6)
    own = publisher(engine, tmp_path, term=term, now_ms=lambda: 0)
    assert own.gating() == (False, None, 0)
    for number, status in ((1, "live"), (2, "verified")):
        registry.publish(
            LINEAGE.name, number, f"{number:064x}", parent=None, term=term, metrics={}, offsets={}, published_ts=0
        )
        for to_status in ("verified", "live")[: 1 + (status == "live")]:
            registry.advance(LINEAGE.name, number, term, to_status=to_status, why="test", now_ms=0)
    RolloutStore(engine).command(
        LINEAGE.name,
        "policy",
        lambda view: changes.set_policy(view, {"mode": "gated"}, "test"),
        user="ada",
        request_id=None,
        now_ms=0,
    )
    assert own.gating() == (True, 1, 0)


@pytest.mark.slow
def test_versions_beyond_the_retention_are_retired_and_removed(engine: Engine, tmp_path: Path) -> None:
    feed(make_loop(tmp_path, engine, settings=KEEP_THREE), make_log())
    versions = Registry(engine).versions(LINEAGE.name)
    statuses = [version.status for version in versions]
    assert statuses == ["retired"] * 3 + ["superseded"] * 2 + ["live"]
    assert on_disk(tmp_path) == {version.artifact for version in versions[-3:]}
    for version in versions[-3:]:
        artifact.load(tmp_path / "artifacts", version.artifact)


@pytest.mark.slow
def test_a_full_version_stays_as_long_as_a_kept_one_needs_it(engine: Engine, tmp_path: Path) -> None:
    seen = []

    def watch(name: str) -> None:
        if name == "artifact.before_write":
            versions = Registry(engine).versions(LINEAGE.name)
            seen.append([version.version for version in versions if version.artifact in on_disk(tmp_path)])
            for version in versions:
                if version.artifact in on_disk(tmp_path):
                    artifact.load(tmp_path / "artifacts", version.artifact)

    feed(make_loop(tmp_path, engine, settings=DELTAS_OF_THREE, failpoint=watch), make_log(400))
    assert seen[1:7] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 3, 4, 5], [4, 5, 6]], "full ones are 1 and 4"
    versions = Registry(engine).versions(LINEAGE.name)
    for path in (tmp_path / "artifacts").iterdir():
        os.utime(path, (0, 0))
    before = on_disk(tmp_path)
    publisher(engine, tmp_path, term=1, now_ms=lambda: 2 * ORPHAN_AGE_MS).remove_orphans()
    assert on_disk(tmp_path) == before == {version.artifact for version in versions if not version.is_gone}


def test_while_the_disk_does_not_say_what_is_needed_nothing_is_removed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> set[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(removal, "bases", refused)
    feed(make_loop(tmp_path, engine, settings=KEEP_THREE), make_log(160))
    versions = Registry(engine).versions(LINEAGE.name)
    assert len(versions) > 3
    assert not any(version.is_gone for version in versions)
    for path in (tmp_path / "artifacts").iterdir():
        os.utime(path, (0, 0))
    before = on_disk(tmp_path)
    publisher(engine, tmp_path, term=1, now_ms=lambda: 2 * ORPHAN_AGE_MS).remove_orphans()
    assert on_disk(tmp_path) == before
    monkeypatch.undo()
    live = Registry(engine).live(LINEAGE.name)
    assert live is not None
    assert publisher(engine, tmp_path, term=1, now_ms=lambda: 0).register(live.artifact)
    assert len(on_disk(tmp_path)) < len(before)


def test_a_base_without_a_row_in_the_registry_is_no_orphan(engine: Engine, tmp_path: Path) -> None:
    base = publish(tmp_path / "artifacts", "base", 1)
    delta = publish_delta(tmp_path / "artifacts", base, 2, rows=[4])
    registry = Registry(engine)
    registry.ensure_lineage(LINEAGE.name, "mlp", "tiny", "h" * 64)
    term = registry.leases.acquire(LINEAGE.name, "one", 0, 100)
    registry.publish(LINEAGE.name, 2, delta, parent=base, term=term, metrics={}, offsets={}, published_ts=0)
    for address in (base, delta):
        os.utime(tmp_path / "artifacts" / address, (0, 0))
    publisher(engine, tmp_path, term=term, now_ms=lambda: 2 * ORPHAN_AGE_MS).remove_orphans()
    assert on_disk(tmp_path) == {base, delta}


def test_a_crash_between_registry_and_removal_leaves_an_orphan_that_goes_after_a_day(
    engine: Engine, tmp_path: Path
) -> None:
    log = make_log()

    def crash(name: str) -> None:
        if name == "after_retired":
            raise Crash(name)

    with pytest.raises(Crash):
        feed(make_loop(tmp_path, engine, settings=KEEP_THREE, failpoint=crash), log)
    (orphan,) = (version.artifact for version in Registry(engine).versions() if version.status == "retired")
    assert orphan in on_disk(tmp_path)
    resumed = make_loop(tmp_path, engine, settings=KEEP_THREE)
    feed(resumed, log)
    known = {version.artifact for version in Registry(engine).versions() if version.status != "retired"}
    assert on_disk(tmp_path) == known | {orphan}
    born_ms = int((tmp_path / "artifacts" / orphan).stat().st_mtime * 1000)
    publisher(engine, tmp_path, term=2, now_ms=lambda: born_ms + ORPHAN_AGE_MS - HOUR_MS).remove_orphans()
    assert on_disk(tmp_path) == known | {orphan}
    publisher(engine, tmp_path, term=2, now_ms=lambda: born_ms + ORPHAN_AGE_MS + HOUR_MS).remove_orphans()
    assert on_disk(tmp_path) == known


def test_versions_of_other_lineages_are_no_orphans(engine: Engine, tmp_path: Path) -> None:
    feed(make_loop(tmp_path, engine), make_log(90))
    other = make_loop(tmp_path / "other", engine, lineage=replace(LINEAGE, name="other"))
    feed(other, make_log(90))
    for path in (tmp_path / "artifacts").iterdir():
        os.utime(path, (0, 0))
    before = on_disk(tmp_path)
    Publisher(
        Registry(engine),
        tmp_path / "artifacts",
        "other",
        1,
        announce=lambda _: None,
        now_ms=lambda: 2 * ORPHAN_AGE_MS,
        keep_versions=3,
    ).remove_orphans()
    assert on_disk(tmp_path) == before != set()


def test_a_stale_writer_retires_nothing(engine: Engine, tmp_path: Path) -> None:
    feed(make_loop(tmp_path, engine), make_log())
    before = Registry(engine).versions()
    make_loop(tmp_path / "taker", engine)
    with pytest.raises(FencedError):
        Registry(engine).retire(LINEAGE.name, 2, 1, 0)
    assert Registry(engine).versions() == before


def test_the_live_version_and_the_newest_stay(engine: Engine) -> None:
    registry = Registry(engine)
    registry.ensure_lineage("prm", "prm", "tiny", "h" * 64)
    term = registry.leases.acquire("prm", "one", 0, 100)
    for number in (1, 2, 3, 4):
        registry.publish(
            "prm", number, f"{number}" * 64, parent=None, term=term, metrics={}, offsets={}, published_ts=number
        )
    for number in (1, 4):
        registry.advance("prm", number, term, to_status="verified" if number == 1 else "rejected", why="test", now_ms=5)
    registry.advance("prm", 1, term, to_status="live", why="test", now_ms=5)
    assert [version.version for version in registry.retire("prm", 0, term, 6)] == [2, 3]
    assert registry.retire("prm", 0, term, 7) == []
    assert [version.status for version in registry.versions()] == ["live", "retired", "retired", "rejected"]


@pytest.mark.slow
def test_no_checkpoint_or_version_that_may_be_needed_again_is_removed(engine: Engine, tmp_path: Path) -> None:
    """Versions go live, are pinned and put live again in turn: those to go back to load, and few others stay."""
    registry, store = Registry(engine), RolloutStore(engine)
    steps = itertools.cycle(["pin", "wait", "wait", "wait", "unpin", "wait", "promote", "wait"])
    sizes: list[tuple[int, int]] = []
    checkpoints = tmp_path / "checkpoints"

    def command(name: str) -> None:
        view = store.view(LINEAGE.name)
        former = view.former
        if name == "wait" or (name == "promote" and former is None):
            return
        decide = {
            "pin": lambda v: changes.pin(v, None, "test"),
            "unpin": lambda v: changes.unpin(v, "test"),
            "promote": lambda v: changes.promote(v, former.number if former else None, "test"),
        }[name]
        store.command(LINEAGE.name, name, decide, user="ada", request_id=None, now_ms=0)

    def watch(name: str) -> None:
        if name != "artifact.before_write" or registry.live(LINEAGE.name) is None:
            return
        command(next(steps))
        states = [checkpoint.load(path).state for path in sorted(checkpoints.glob("0*"))]
        for address in registry.recoverable(LINEAGE.name):
            state = next(each for each in states if each.published.artifact == address)
            assert state.learning.batch_number == state.published.batch_number
            assert state.position.boundary_ts == artifact.load(tmp_path / "artifacts", address).manifest.boundary_ts
        sizes.append((len(on_disk(tmp_path)), len(list(checkpoints.glob("0*")))))

    often = replace(LINEAGE, learning=replace(LINEAGE.learning, batch=2, checkpoint_s=2))
    settings = replace(DELTAS_OF_THREE, publish_s=4, keep_checkpoints=1)
    feed(make_loop(tmp_path, engine, lineage=often, settings=settings, failpoint=watch), make_log(100))
    assert len(registry.versions(LINEAGE.name)) == len(sizes) + 1 == 25
    versions, checkpoints_kept = (max(column) for column in zip(*sizes, strict=True))
    assert versions <= 8, "three and those that they and recovery need"
    assert checkpoints_kept <= 10


def test_while_the_database_is_away_no_checkpoint_is_removed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> set[str]:
        raise StoreError("away")

    monkeypatch.setattr(Registry, "recoverable", away)
    loop = make_loop(tmp_path, engine, settings=KEEP_THREE)
    feed(loop, make_log(160))
    assert len(list((tmp_path / "checkpoints").glob("0*"))) == loop.progress.num_boundaries


def test_training_does_not_go_on_from_a_version_that_was_rolled_back(engine: Engine, tmp_path: Path) -> None:
    """Checkpoints of a bad version that someone has put back are refused; the message names the way out."""
    feed(make_loop(tmp_path, engine), make_log(120)[:-1])
    RolloutStore(engine).command(
        LINEAGE.name,
        "rollback",
        lambda view: changes.rollback(view, None, "replay", "test"),
        user="ada",
        request_id=None,
        now_ms=1,
    )
    with db.transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE lineages SET rewind_to = NULL, rewind_mode = NULL")
    with pytest.raises(
        ConfigError,
        match="belongs to version 2, which is rolled_back; move .*checkpoints away and start with "
        f"--warm-start {LINEAGE.name}",
    ):
        make_loop(tmp_path, engine).start()


def test_retention_is_repeated_when_the_database_comes_back(engine: Engine, tmp_path: Path) -> None:
    loop = make_loop(tmp_path, engine, settings=KEEP_THREE)
    feed(loop, make_log())
    live = Registry(engine).live(LINEAGE.name)
    assert live is not None
    with pytest.raises(StoreError):
        publisher(db.create(f"sqlite:///{tmp_path}/empty.db"), tmp_path, term=1, now_ms=lambda: 0).register(
            live.artifact
        )
    publisher(engine, tmp_path, term=1, now_ms=lambda: 0).register(live.artifact)
    assert Registry(engine).live(LINEAGE.name) == live
