"""A thousand versions beside a reader; the writer of the first two hundred is killed time and again (T4, R15)."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from serving.ranking.scorer import Loader
from stream import db
from tests.serving.world import World, publish
from trainer.versions import artifact, writing
from trainer.versions.publisher import ORPHAN_AGE_MS, Publisher
from trainer.versions.registry import Registry

pytestmark = pytest.mark.system
NUM_VERSIONS, WITH_KILLS = 1_000, 200
KEEP = 12
LINEAGE = "base"


def publish_until_killed(home: Path, first: str, moment: int) -> None:
    """Publish versions until all are there; among the first ones the process dies at that call of a failpoint."""
    left = moment

    def tick(_name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0 and own.newest_number() < WITH_KILLS:
            os.kill(os.getpid(), signal.SIGKILL)

    registry = Registry(db.create(f"sqlite:///{home}/shelfwise.db"))
    folder = home / "artifacts"
    term = registry.leases.acquire(LINEAGE, "writer", 0, 10**12)
    own = Publisher(
        registry, folder, LINEAGE, term, announce=lambda _: None, now_ms=lambda: 0, keep_versions=KEEP, failpoint=tick
    )
    own.remove_orphans()
    like = artifact.load(home / "first", first)
    name = next(name for name in like.params if not name.startswith(artifact.ROWS_PREFIX))
    for version in own.versions()[-1:]:
        # The process before may have died between the row and the version's going live.
        own.register(version.artifact)
    for number in range(own.newest_number() + 1, NUM_VERSIONS + 1):
        params = like.params | {name: like.params[name] + number / 1_000}
        manifest = msgspec.structs.replace(like.manifest, version=number)
        own.register(writing.publish(folder, manifest, params, like.id_maps, like.golden, failpoint=tick))


class Reader(threading.Thread):
    """A server's loads, back to back: each version that is found live must load, whole and as itself."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world = world
        self.stop = threading.Event()
        self.loaded: list[int] = []
        self.faults: list[str] = []

    def run(self) -> None:
        loader = Loader(self._world.artifacts)
        while not self.stop.wait(0.02):
            live = self._world.registry.live(LINEAGE)
            if live is None or live.version in self.loaded[-1:]:
                continue
            try:
                loader.load(live.artifact).check_identity(LINEAGE, live.version)
            except Exception as error:  # noqa: BLE001 - the test tells each of them
                self.faults.append(f"version {live.version}: {error!r}")
            self.loaded.append(live.version)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_t4_r15_a_thousand_versions_and_their_kills_leave_no_gap_no_orphan_and_nothing_half(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = publish(tmp_path / "first", LINEAGE, 1)
    world.registry.ensure_lineage(LINEAGE, "mlp", "tiny", "h" * 64)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    random, num_kills, most = np.random.default_rng(4), 0, 0
    reader = Reader(world)
    reader.start()
    try:
        while True:
            child = server.Process(target=publish_until_killed, args=(tmp_path, first, int(random.integers(1, 60))))
            child.start()
            child.join(1_800)
            most = max(most, len(names_in(world.artifacts)))
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
            num_kills += 1
    finally:
        reader.stop.set()
        reader.join(60)
    assert reader.faults == []
    assert len(reader.loaded) > num_kills > 40
    assert reader.loaded == sorted(reader.loaded)
    versions = world.registry.versions(LINEAGE)
    assert [each.version for each in versions] == list(range(1, NUM_VERSIONS + 1))
    assert [each.status for each in versions[-KEEP:]] == ["superseded"] * (KEEP - 1) + ["live"]
    # What a kill between rename and row, or between retirement and removal, leaves goes after a day.
    assert most <= KEEP + 2 + num_kills
    term = world.registry.leases.acquire(LINEAGE, "writer", 0, 10**12)
    later = max(path.stat().st_mtime_ns for path in world.artifacts.iterdir()) // 10**6 + 2 * ORPHAN_AGE_MS
    Publisher(
        world.registry,
        world.artifacts,
        LINEAGE,
        term,
        announce=lambda _: None,
        now_ms=lambda: later,
        keep_versions=KEEP,
    ).remove_orphans()
    assert names_in(world.artifacts) == {each.artifact for each in versions[-KEEP:]}
    for each in versions[-KEEP:]:
        artifact.load(world.artifacts, each.artifact)
