import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.metrics import Metrics
from serving.ranking import scorer
from serving.ranking.versions import RETRY_REFUSED_S, VersionManager, VersionUpdater
from serving.schemas import RankAnswer, RankRequest
from serving.settings import ServingSettings
from stream.errors import StoreError
from tests.serving.world import START_MS, World, request, scores_of
from trainer.versions.registry import Version


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Unavailable:
    """A registry whose database does not answer."""

    def live(self, lineage: str) -> Version | None:
        raise StoreError("connection refused")


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def updater(
    world: World, versions: VersionManager, metrics: Metrics, clock: Clock, *, unavailable: bool = False
) -> VersionUpdater:
    return VersionUpdater(
        Unavailable() if unavailable else world.registry,
        versions,
        scorer.Loader(world.artifacts).load,
        metrics,
        pointers=world.home / "versions.json",
        clock=clock,
    )


def refused(metrics: Metrics) -> float:
    value = metrics.registry.get_sample_value(
        "shelfwise_serving_refused_versions_total", {"lineage": "base", "reason": "artifact"}
    )
    return value or 0.0


def test_the_live_version_comes_into_use_and_the_previous_one_stays_loaded(world: World) -> None:
    metrics, clock = Metrics(), Clock()
    versions = VersionManager(metrics, max_bad_outputs=5)
    poller = updater(world, versions, metrics, clock)
    poller.poll(["base"])
    assert versions.get("base") is None
    world.go_live("base", 1)
    poller.poll(["base"])
    world.go_live("base", 2)
    poller.poll(["base"])
    poller.poll(["base"])
    used = versions.get("base")
    assert used is not None
    assert used.previous is not None
    assert (used.number, used.previous.number, used.previous.previous) == (2, 1, None)
    assert metrics.registry.get_sample_value("shelfwise_serving_version_changes_total", {"lineage": "base"}) == 2.0
    assert metrics.registry.get_sample_value("shelfwise_serving_version", {"lineage": "base"}) == 2.0


def flip(folder: Path) -> None:
    path = folder / "dense.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw)


def cut(folder: Path) -> None:
    path = folder / "dense.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def zero_tail(folder: Path) -> None:
    path = folder / "rows.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-64] + bytes(64))


def foreign(folder: Path) -> None:
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes().replace(b'"base"', b'"evil"'))


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def link(folder: Path) -> None:
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.symlink_to(kept)


@pytest.mark.parametrize("damage", [flip, cut, zero_tail, foreign, remove, link])
def test_t3_a_damaged_version_is_refused_once_and_the_previous_one_stays(
    world: World, damage: Callable[[Path], None]
) -> None:
    metrics, clock = Metrics(), Clock()
    versions = VersionManager(metrics, max_bad_outputs=5)
    poller = updater(world, versions, metrics, clock)
    world.go_live("base", 1)
    poller.poll(["base"])
    damage(world.artifacts / world.go_live("base", 2))
    for _ in range(5):
        poller.poll(["base"])
        clock.now += RETRY_REFUSED_S / 2
    used = versions.get("base")
    assert used is not None
    assert used.number == 1
    assert refused(metrics) == 1.0
    world.go_live("base", 3)
    poller.poll(["base"])
    repaired = versions.get("base")
    assert repaired is not None
    assert repaired.number == 3


@pytest.mark.parametrize("damage", [flip, cut, zero_tail, foreign, remove, link])
def test_a_delta_needs_its_base_on_disk_only_where_none_is_in_use(
    world: World, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    running, fresh = VersionManager(Metrics(), max_bad_outputs=5), VersionManager(Metrics(), max_bad_outputs=5)
    poller = updater(world, running, Metrics(), Clock())
    base = world.go_live("base", 1)
    poller.poll(["base"])
    delta = world.go_live("base", 2, base=base)
    damage(world.artifacts / base)
    poller.poll(["base"])
    used = running.get("base")
    assert used is not None
    assert used.artifact == delta
    metrics = Metrics()
    updater(world, fresh, metrics, Clock()).poll(["base"])
    assert fresh.get("base") is None
    assert refused(metrics) == 1.0
    assert f"{delta}: its base is refused: {base}" in caplog.text


def test_without_the_registry_the_versions_stay_and_a_start_uses_the_pointers(world: World) -> None:
    metrics, clock = Metrics(), Clock()
    versions = VersionManager(metrics, max_bad_outputs=5)
    address = world.go_live("base", 4)
    updater(world, versions, metrics, clock).poll(["base"])
    unavailable = updater(world, versions, metrics, clock, unavailable=True)
    unavailable.poll(["base"])
    used = versions.get("base")
    assert used is not None
    assert used.artifact == address
    fresh = VersionManager(metrics, max_bad_outputs=5)
    updater(world, fresh, metrics, clock, unavailable=True).poll(["base"])
    again = fresh.get("base")
    assert again is not None
    assert (again.number, again.artifact) == (4, address)


@pytest.mark.slow
def test_v5_version_changes_under_load_fail_no_request_and_mislabel_none(world: World) -> None:
    num_versions, num_requests = 12, 400
    addresses = {str(number): "" for number in range(1, num_versions + 1)}
    service = world.service(
        ServingSettings(default_lineage="base", deadline_ms=60_000.0, poll_s=3_600.0, trust_event_ts=True)
    )
    asked = [request(f"c-{k}", event_ts=START_MS) for k in range(num_requests)]
    answered: list[RankAnswer] = []

    async def ask(share: list[RankRequest]) -> None:
        answered.extend([await service.rank(one) for one in share])

    def change_versions() -> None:
        for number in range(2, num_versions + 1):
            addresses[str(number)] = world.go_live("base", number)
            service.poll()

    async def go() -> None:
        addresses["1"] = world.go_live("base", 1)
        service.start()
        try:
            while service.versions.get("base") is None:
                await asyncio.sleep(0)
            changing = asyncio.create_task(asyncio.to_thread(change_versions))
            while not changing.done():
                await asyncio.gather(*(ask(asked[k::4]) for k in range(4)))
            await changing
        finally:
            service.stop()

    asyncio.run(go())
    assert len(answered) >= num_requests
    assert {answer.fallback for answer in answered} == {None}
    assert len({answer.version for answer in answered}) >= 3
    expected = {number: scores_of(world, address, asked[0], service.catalogue) for number, address in addresses.items()}
    assert len({tuple(sorted(scores.items())) for scores in expected.values()}) == num_versions
    for answer in answered:
        found = {item.item_id: item.score for item in answer.items}
        assert answer.version is not None
        assert found == pytest.approx(expected[answer.version], abs=1e-6)
