import asyncio
import gc
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import pytest

from serving.metrics import Metrics
from serving.ranking import scorer
from serving.ranking import updater as module
from serving.ranking.updater import LONGEST_LOAD_S, RETRY_REFUSED_S, VersionUpdater
from serving.ranking.versions import NO_VERSION, WITHDRAWN, Choice, VersionManager
from serving.schemas import RankAnswer, RankRequest
from serving.settings import ServingSettings
from stream.errors import StoreError
from stream.replicas.catalogue import Catalogue
from tests.serving.world import START_MS, World, items, publish, request, scores_of
from trainer.rollout.served_map import LineageMap, MapReader, Pointer
from trainer.versions import artifact
from trainer.versions.signature import VersionKeys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Unavailable:
    """A map whose database does not answer."""

    def read(self, names: Collection[str]) -> Mapping[str, LineageMap]:
        raise StoreError("connection refused")


class Found:
    """A map that is what the test says."""

    def __init__(self, **lineages: LineageMap) -> None:
        self.lineages = lineages

    def read(self, names: Collection[str]) -> Mapping[str, LineageMap]:
        return {name: found for name, found in self.lineages.items() if name in names}


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
        Unavailable() if unavailable else MapReader(world.engine),
        versions,
        partial(_load, scorer.Loader(world.artifacts)),
        metrics,
        copy_path=world.home / "map.json",
        clock=clock,
    )


def _load(loader: scorer.Loader, lineage: str, pointer: Pointer) -> scorer.VersionScorer:
    loaded = loader.load(pointer.artifact)
    loaded.check_identity(lineage, pointer.number)
    return loaded


def given(world: World, found: Found, versions: VersionManager) -> VersionUpdater:
    """Return an updater whose map is what the test says."""
    load = partial(_load, scorer.Loader(world.artifacts))
    return VersionUpdater(found, versions, load, Metrics(), copy_path=world.home / "map.json", clock=Clock())


def number_of(versions: VersionManager, lineage: str = "base") -> int | None:
    active = versions.get(lineage)
    return None if active is None else active.number


def refused(metrics: Metrics) -> float:
    value = metrics.registry.get_sample_value(
        "shelfwise_serving_refused_versions_total", {"lineage": "base", "reason": "artifact"}
    )
    return value or 0.0


def is_former(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("shelfwise_serving_former_version", {"lineage": "base"})


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
    assert [version.number for version in versions.routes.lineages["base"].ranked] == [2, 1]
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


def folder_for_file(folder: Path) -> None:
    (folder / "rows.safetensors").unlink()
    (folder / "rows.safetensors").mkdir()


def pipe(folder: Path) -> None:
    (folder / "dense.safetensors").unlink()
    os.mkfifo(folder / "dense.safetensors")


def pipe_for_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def huge_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 3 << 30)


def huge_file(folder: Path) -> None:
    os.truncate(folder / "dense.safetensors", 64 << 30)


HOSTILE = [folder_for_file, pipe, pipe_for_manifest, huge_manifest, huge_file]


@pytest.mark.parametrize("damage", [flip, cut, zero_tail, foreign, remove, link, *HOSTILE])
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
    assert refused(metrics) == 2.0
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


def test_r13_after_a_restart_the_newest_intact_former_version_stands_in_for_a_damaged_one(world: World) -> None:
    addresses = [world.go_live("base", number) for number in (1, 2, 3, 4)]
    for address in addresses[2:]:
        flip(world.artifacts / address)
    metrics, clock = Metrics(), Clock()
    versions = VersionManager(metrics, max_bad_outputs=5)
    poller = updater(world, versions, metrics, clock)
    poller.poll(["base"])
    assert number_of(versions) == 2
    assert is_former(metrics) == 1.0
    assert list(poller.refused()) == ["base"]
    assert poller.refused()["base"].startswith("version 4: ")
    without_database = VersionManager(Metrics(), max_bad_outputs=5)
    updater(world, without_database, Metrics(), Clock(), unavailable=True).poll(["base"])
    assert number_of(without_database) == 2
    world.go_live("base", 5)
    poller.poll(["base"])
    assert (number_of(versions), poller.refused(), is_former(metrics)) == (5, {}, 0.0)


@pytest.mark.parametrize("damage", HOSTILE)
def test_a_damaged_version_of_one_lineage_delays_no_other(world: World, damage: Callable[[Path], None]) -> None:
    damage(world.artifacts / world.go_live("armmt", 1))
    world.go_live("base", 1)
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    poller = updater(world, versions, Metrics(), Clock())
    poller.poll(["armmt", "base"])
    assert (number_of(versions, "armmt"), number_of(versions, "base")) == (None, 1)
    assert list(poller.refused()) == ["armmt"]


def test_a_load_that_does_not_end_delays_no_other_lineage(world: World) -> None:
    entered, released = threading.Event(), threading.Event()

    def load(lineage: str, pointer: Pointer) -> scorer.VersionScorer:
        if lineage == "armmt":
            entered.set()
            released.wait(60.0)
        return _load(scorer.Loader(world.artifacts), lineage, pointer)

    world.go_live("armmt", 1)
    world.go_live("base", 1)
    clock = Clock()
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    poller = VersionUpdater(
        MapReader(world.engine), versions, load, Metrics(), copy_path=world.home / "map.json", clock=clock
    )
    try:
        while number_of(versions) is None:
            poller.poll(["armmt", "base"], wait_s=0.1)
        assert entered.is_set()
        world.go_live("base", 2)
        while number_of(versions) != 2:
            poller.poll(["armmt", "base"], wait_s=0.1)
        assert (poller.is_settled(["armmt", "base"]), poller.is_settled(["base"])) == (False, True)
        clock.now += LONGEST_LOAD_S
        assert poller.is_settled(["armmt", "base"])
        assert poller.refused() == {"armmt": "a version has been loading for 60 s"}
    finally:
        released.set()
    poller.poll(["armmt", "base"])
    assert (number_of(versions, "armmt"), poller.refused()) == (1, {})


def test_a_fault_that_no_one_foresaw_refuses_the_version(world: World) -> None:
    def load(lineage: str, pointer: Pointer) -> scorer.VersionScorer:
        if pointer.number == 2:
            raise MemoryError("an absurd capacity")
        return _load(scorer.Loader(world.artifacts), lineage, pointer)

    metrics = Metrics()
    versions = VersionManager(metrics, max_bad_outputs=5)
    poller = VersionUpdater(
        MapReader(world.engine), versions, load, metrics, copy_path=world.home / "map.json", clock=Clock()
    )
    world.go_live("base", 1)
    world.go_live("base", 2)
    poller.poll(["base"])
    assert (number_of(versions), refused(metrics)) == (1, 1.0)
    assert poller.refused() == {"base": "version 2: an absurd capacity"}


def test_a_version_that_the_catalogue_has_left_is_refused_at_the_next_poll(world: World) -> None:
    shop, versions = Catalogue(items()), VersionManager(Metrics(), max_bad_outputs=5)
    poller = VersionUpdater(
        MapReader(world.engine),
        versions,
        partial(_load, scorer.Loader(world.artifacts)),
        Metrics(),
        copy_path=world.home / "map.json",
        clock=Clock(),
        check=lambda found: cast("scorer.VersionScorer", found).keep_spaces(shop),
    )
    world.go_live("base", 1)
    poller.poll(["base"])
    assert number_of(versions) == 1
    for item in items():
        shop.put(msgspec.structs.replace(item, text_model="text-2"))
    poller.poll(["base"])
    assert number_of(versions) is None
    assert "60 items have vectors of the space text-2, and 0 of text-1" in poller.states(["base"])["base"]["1"]


def test_an_artifact_of_another_lineage_or_number_is_refused(world: World) -> None:
    for lineage, number in (("armmt", 1), ("base", 7)):
        address = publish(world.artifacts, lineage, number)
        versions = VersionManager(Metrics(), max_bad_outputs=5)
        poller = given(world, Found(base=LineageMap(live=Pointer(1, address))), versions)
        poller.poll(["base"])
        assert number_of(versions) is None
        assert f"is version {number} of lineage {lineage}" in poller.refused()["base"]


def test_a_version_without_a_signature_is_refused_by_number_and_reason(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    versions, metrics = VersionManager(Metrics(), max_bad_outputs=5), Metrics()
    load = partial(_load, scorer.Loader(world.artifacts, keys=lambda: VersionKeys((bytes(32),))))
    poller = VersionUpdater(
        MapReader(world.engine), versions, load, metrics, copy_path=world.home / "map.json", clock=Clock()
    )
    world.go_live("base", 1)
    poller.poll(["base"])
    reason = "it is not signed, and signing.key asks for a signature"
    assert versions.get("base") is None
    assert poller.refused() == {"base": f"version 1: {reason}"}
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"lineage base: version 1 is refused: {world.registry.versions()[0].artifact}: {reason}"
    ]
    assert refused(metrics) == 1.0


def test_a_return_to_the_former_version_loads_nothing(world: World) -> None:
    loads: list[int] = []

    def load(lineage: str, pointer: Pointer) -> scorer.VersionScorer:
        loads.append(pointer.number)
        return _load(scorer.Loader(world.artifacts), lineage, pointer)

    one, two = (Pointer(n, publish(world.artifacts, "base", n)) for n in (1, 2))
    found = Found()
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    poller = VersionUpdater(found, versions, load, Metrics(), copy_path=world.home / "map.json", clock=Clock())
    for live, former in ((one, ()), (two, (one,)), (one, (two,))):
        found.lineages = {"base": LineageMap(live=live, former=former)}
        poller.poll(["base"])
        assert number_of(versions) == live.number
    assert loads == [1, 2]


def test_a_withdrawn_lineage_is_named_with_the_reason(world: World) -> None:
    one = Pointer(1, publish(world.artifacts, "base", 1))
    found = Found(base=LineageMap(live=one, killed="prices are wrong"), armmt=LineageMap(rolled_back=3))
    poller = given(world, found, VersionManager(Metrics(), max_bad_outputs=5))
    assert poller.withdrawn() == {}
    poller.poll(["base", "armmt"])
    assert poller.withdrawn() == {
        "base": "killed: prices are wrong",
        "armmt": "version 3 was rolled back, and no version is left that was live before it",
    }
    found.lineages = {"base": LineageMap(live=one), "armmt": LineageMap(former=(one,), rolled_back=3)}
    poller.poll(["base", "armmt"])
    assert poller.withdrawn() == {}


def test_a_former_version_answers_where_the_live_row_is_missing(world: World) -> None:
    one, two = (Pointer(n, publish(world.artifacts, "base", n)) for n in (1, 2))
    found = Found(base=LineageMap(live=two, former=(one,)))
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    poller = given(world, found, versions)
    poller.poll(["base"])
    assert number_of(versions) == 2
    found.lineages = {"base": LineageMap(former=(one,), rolled_back=2)}
    poller.poll(["base"])
    assert number_of(versions) == 1
    cut(world.artifacts / one.artifact)
    fresh = VersionManager(Metrics(), max_bad_outputs=5)
    given(world, found, fresh).poll(["base"])
    assert fresh.routes.choose("base", "c-1") == Choice(fallback=WITHDRAWN)


def test_a_canary_that_is_damaged_here_opens_neither_slice(world: World) -> None:
    one, two = (Pointer(n, publish(world.artifacts, "base", n)) for n in (1, 2))
    cut(world.artifacts / two.artifact)
    found = Found(base=LineageMap(live=one, canary=two, canary_share=0.5))
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    poller = given(world, found, versions)
    poller.poll(["base"])
    assert {versions.routes.choose("base", f"c-{k}").slice for k in range(50)} == {None}
    assert (number_of(versions), poller.refused()) == (1, {})


def test_the_states_name_what_is_in_memory_and_why_the_rest_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (Pointer(n, publish(world.artifacts, "base", n)) for n in (1, 2, 3))
    found = Found(base=LineageMap(live=one))
    versions = VersionManager(Metrics(), max_bad_outputs=1)
    poller = given(world, found, versions)
    assert (poller.states(["base"]), poller.map_sha256) == ({"base": {}}, None)
    poller.poll(["base"])
    monkeypatch.setattr(artifact, "GOLDEN_TOLERANCE", -1.0)
    found.lineages = {"base": LineageMap(live=one, candidate=two)}
    poller.poll(["base"])
    (state,) = (state for number, state in poller.states(["base"])["base"].items() if number == "2")
    # Gate 2 knows the reason by its first word.
    assert state.startswith("golden scores differ by ")
    monkeypatch.undo()
    found.lineages = {"base": LineageMap(live=one, canary=three)}
    poller.poll(["base", "armmt"])
    assert poller.states(["base", "armmt"]) == {"base": {"1": "ok", "3": "ok"}, "armmt": {}}
    assert poller.judged() == {("base", 1), ("base", 3)}
    canary = versions.routes.lineages["base"].canary
    assert canary is not None
    versions.report_bad_output(canary)
    assert poller.states(["base"])["base"]["3"] == "quarantined after bad outputs"


def test_versions_without_a_role_leave_the_memory(world: World) -> None:
    pointers = [Pointer(n, publish(world.artifacts, "base", n)) for n in (1, 2, 3, 4)]
    found = Found()
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    loaded: list[weakref.ref[object]] = []

    def load(lineage: str, pointer: Pointer) -> scorer.VersionScorer:
        made = _load(scorer.Loader(world.artifacts), lineage, pointer)
        loaded.append(weakref.ref(made))
        return made

    poller = VersionUpdater(found, versions, load, Metrics(), copy_path=world.home / "map.json", clock=Clock())
    for at, pointer in enumerate(pointers):
        found.lineages = {"base": LineageMap(live=pointer, former=tuple(reversed(pointers[:at])))}
        poller.poll(["base"])
    gc.collect()
    assert [reference() is not None for reference in loaded] == [False, False, True, True]
    poller.poll([])
    gc.collect()
    assert [reference() is not None for reference in loaded] == [False] * 4
    assert versions.routes.lineages == {}


def test_a_load_under_way_does_not_delay_a_kill(world: World) -> None:
    released = threading.Event()

    def load(lineage: str, pointer: Pointer) -> scorer.VersionScorer:
        if pointer.number == 2:
            released.wait(60.0)
        return _load(scorer.Loader(world.artifacts), lineage, pointer)

    one, two = (Pointer(n, publish(world.artifacts, "base", n)) for n in (1, 2))
    found = Found(base=LineageMap(live=one))
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    poller = VersionUpdater(found, versions, load, Metrics(), copy_path=world.home / "map.json", clock=Clock())
    try:
        for newest, expected in (
            (LineageMap(live=one), 1),
            (LineageMap(live=two, former=(one,)), 1),
            (LineageMap(live=two, former=(one,), killed="why"), None),
        ):
            found.lineages = {"base": newest}
            poller.poll(["base"], wait_s=60.0 if newest.live == one else 0.0)
            assert number_of(versions) == expected
    finally:
        released.set()
    poller.poll(["base"])
    assert versions.routes.choose("base", "c-1") == Choice(fallback=WITHDRAWN)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-9],
        lambda raw: raw.replace(b'"killed":"why"', b'"killed":null'),
        lambda raw: raw.replace(b'"killed":"why"', b'"killed":"wh\xf9"'),
        lambda _raw: None,
    ],
    ids=["cut off", "another content", "no UTF-8", "a folder"],
)
def test_a_damaged_copy_of_the_map_is_ignored(
    world: World, damage: Callable[[bytes], bytes | None], caplog: pytest.LogCaptureFixture
) -> None:
    one = Pointer(1, publish(world.artifacts, "base", 1))
    found = Found(base=LineageMap(live=one, killed="why"))
    given(world, found, VersionManager(Metrics(), max_bad_outputs=5)).poll(["base"])
    path = world.home / "map.json"
    damaged = damage(path.read_bytes())
    path.unlink()
    path.mkdir() if damaged is None else path.write_bytes(damaged)
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    updater(world, versions, Metrics(), Clock(), unavailable=True).poll(["base"])
    assert versions.routes.choose("base", "c-1") == Choice(fallback=NO_VERSION)
    assert "map.json is damaged and ignored" in caplog.text


def test_a_full_disk_keeps_no_map_but_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_path: Path, _content: bytes, *, mode: int) -> None:
        raise OSError("No space left on device")

    world.go_live("base", 1)
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    poller = updater(world, versions, Metrics(), Clock())
    with monkeypatch.context() as patch:
        patch.setattr(module, "replace_file", full)
        assert poller.poll(["base"])
        assert poller.poll(["base"])
    assert number_of(versions) == 1
    assert caplog.text.count("No space left on device") == 1
    poller.poll(["base"])
    assert (world.home / "map.json").exists()


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
