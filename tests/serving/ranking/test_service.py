import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from abtest.experiment import Arm
from abtest.store import ExperimentStore
from serving import run as run_module
from serving.ranking import rank, scorer
from serving.ranking.service import Service, System
from serving.ranking.versions import NO_VERSION, QUARANTINED
from serving.run import DATABASE_TIMEOUT_S
from serving.schemas import RankAnswer
from serving.settings import ServingSettings
from stream import db
from stream.db_settings import DatabaseSettings
from stream.errors import StoreError
from stream.schemas.events import Behaviour, Profile
from stream.schemas.identity import client_hash
from stream.schemas.session import unpack
from tests.harness.silent_server import silent_server
from tests.serving.live import wait_until
from tests.serving.world import START_MS, StubScorer, World, answering, request, spooled
from trainer.features import CONTEXT_COLUMNS, FEATURE_SCHEMA, ITEM_COLUMNS, item_f16
from trainer.versions.int8 import Limits


def use(service: Service, scorer: StubScorer, number: int = 1, lineage: str = "base") -> None:
    """Let a version answer, before those in use."""
    made, before = answering(lineage, scorer, number), service.versions.routes.lineages.get(lineage)
    service.versions.use(replace(made, ranked=(*made.ranked, *(before.ranked if before else ()))))


def good(n: int) -> Sequence[float]:
    return [float(k) for k in range(n)]


def raising(_n: int) -> Sequence[float]:
    raise RuntimeError("the model fell over")


async def answers(service: Service, num: int, client: str = "c-1") -> list[RankAnswer]:
    return [await service.rank(request(client, event_ts=START_MS)) for _ in range(num)]


def run(service: Service, num: int = 1) -> list[RankAnswer]:
    async def go() -> list[RankAnswer]:
        service.start()
        try:
            return await answers(service, num)
        finally:
            service.stop()

    return asyncio.run(go())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


SETTINGS = ServingSettings(default_lineage="base", deadline_ms=60_000.0, trust_event_ts=True)


def test_an_unknown_version_keeps_the_incoming_order_and_logs_features(world: World) -> None:
    service = world.service(SETTINGS)
    (answer,) = run(service)
    assert (answer.fallback, answer.lineage, answer.version) == (NO_VERSION, "base", None)
    assert [item.rank_in for item in answer.items] == list(range(1, 31))
    (logged,) = spooled(world)
    assert logged.features is not None
    assert logged.fallback == NO_VERSION


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (lambda n: [math.nan] * n, rank.NOT_FINITE),
        (lambda n: [1.0] * (n - 1) + [math.inf], rank.NOT_FINITE),
        (lambda n: [1.0] * (n + 1), rank.WRONG_LENGTH),
        (lambda n: [], rank.WRONG_LENGTH),
        (raising, rank.ERROR),
    ],
)
def test_v2_bad_output_falls_back_and_five_quarantine_the_version(
    world: World, output: Callable[[int], Sequence[float]], reason: str
) -> None:
    service = world.service(SETTINGS)
    faulty = StubScorer(output)
    use(service, faulty)
    found = run(service, 7)
    assert [answer.fallback for answer in found] == [reason] * 5 + [QUARANTINED] * 2
    assert all([item.rank_in for item in answer.items] == list(range(1, 31)) for answer in found)
    assert all(item.score is None for answer in found for item in answer.items)
    assert faulty.num_calls == 5
    assert b'shelfwise_serving_refused_versions_total{lineage="base",reason="quarantined"} 1.0' in (
        service.metrics.text()
    )


def test_an_impression_names_the_runtime_of_its_version(world: World) -> None:
    world.go_live("base", 1, with_graph=True, int8=Limits(0.0, 1.0))
    settings = replace(SETTINGS, runtime="onnx", precision="int8")
    service = world.service(settings)
    service.poll()
    run(service)
    world.go_live("base", 2, with_graph=True)
    other = world.service(settings)
    other.poll()
    run(other)
    found = [((logged.attributes or {})["runtime"], logged.version) for logged in spooled(world)]
    assert found == [("onnx-int8", "1"), ("onnx", "2")]
    counted = b'shelfwise_serving_full_precision_versions_total{lineage="base"} 1.0'
    assert (counted in service.metrics.text(), counted in other.metrics.text()) == (False, True)


def test_v2_a_quarantined_version_gives_way_to_the_one_before(world: World) -> None:
    service = world.service(SETTINGS)
    use(service, StubScorer(good), number=1)
    use(service, StubScorer(raising), number=2)
    found = run(service, 7)
    assert [answer.version for answer in found] == [None] * 5 + ["1"] * 2


def test_v3_a_model_that_sleeps_is_not_waited_for(world: World) -> None:
    released = threading.Event()

    def stuck(n: int) -> Sequence[float]:
        released.wait(60.0)
        return good(n)

    service = world.service(ServingSettings(default_lineage="base", deadline_ms=2_000.0, trust_event_ts=True))

    async def go() -> tuple[list[RankAnswer], list[RankAnswer], list[RankAnswer]]:
        service.start()
        try:
            use(service, StubScorer(good))
            before = await answers(service, 3)
            use(service, StubScorer(stuck), number=2)
            during = await answers(service, 4)
            use(service, StubScorer(good), number=3)
            released.set()
            while (await answers(service, 1))[0].fallback == rank.STUCK:
                await asyncio.sleep(0)
            return before, during, await answers(service, 3)
        finally:
            released.set()
            service.stop()

    before, during, after = asyncio.run(go())
    assert [answer.fallback for answer in before] == [None] * 3
    assert [answer.fallback for answer in during] == [rank.LATE, *[rank.STUCK] * 3]
    assert [(answer.fallback, answer.version) for answer in after] == [(None, "3")] * 3
    logged = {impression.fallback: impression for impression in spooled(world)}
    assert logged[rank.LATE].features is not None
    assert logged[rank.STUCK].features is None


def test_a_list_that_waited_too_long_is_not_scored(world: World) -> None:
    entered, released = threading.Event(), threading.Event()

    def slow(n: int) -> Sequence[float]:
        entered.set()
        released.wait(60.0)
        return good(n)

    readings = [0.0]
    service = world.service(
        ServingSettings(default_lineage="base", deadline_ms=60_000.0),
        system=System(clock=lambda: readings[0], now_ms=lambda: START_MS, random_bytes=bytes, random=lambda: 0.0),
    )
    scorer = StubScorer(slow)
    use(service, scorer)

    async def go() -> list[RankAnswer]:
        service.start()
        try:
            first = asyncio.create_task(service.rank(request()))
            while not entered.is_set():
                await asyncio.sleep(0)
            second = asyncio.create_task(service.rank(request()))
            await asyncio.sleep(0)
            readings[0] = 31.0
            released.set()
            return [await first, await second]
        finally:
            service.stop()

    assert [answer.fallback for answer in asyncio.run(go())] == [None, rank.WAITED]
    assert scorer.num_calls == 1


def test_the_impression_repeats_the_answer_with_features_in_shown_order(world: World) -> None:
    service = world.service(SETTINGS)
    world.experiment(arms=[Arm(name="control", lineage="base", is_control=True), Arm(name="b", lineage="base")])
    service.poll()
    use(service, StubScorer(lambda n: [float(k % 7) + k / 100 for k in range(n)]))
    behaviours = [
        Behaviour(event_id=f"e-{k}", item_id=f"i-{k}", action="click", event_ts=START_MS - k * 61_000, category="k-1")
        for k in range(3)
    ]
    service.profiles.put(Profile(client_id="c-1", behaviours=behaviours, updated_ts=START_MS))

    async def go() -> RankAnswer:
        service.start()
        try:
            return await service.rank(request("c-1", event_ts=START_MS, num_candidates=35, session_id="visit-1"))
        finally:
            service.stop()

    answer = asyncio.run(go())
    (logged,) = spooled(world)
    assert logged.items.object_id == [item.item_id for item in answer.items]
    assert logged.items.rank_in == [item.rank_in for item in answer.items]
    assert logged.items.score is not None
    assert logged.items.score[:30] == [item.score for item in answer.items[:30]]
    assert logged.items.score[30:] == [logged.items.score[29]] * 5
    assert logged.items.propensity == [1.0] * 35
    assert (logged.attributes or {})["num_scored"] == 30
    assert (logged.event_id, logged.query_id) == (answer.impression_event_id, answer.query_id)
    assert (logged.event_ts, logged.session_id, logged.source) == (START_MS, "visit-1", "serving")
    assert (logged.lineage, logged.version) == ("base", "1")
    assert [(a.experiment, a.arm, a.epoch, a.bucket) for a in logged.assignment] == [
        (answer.experiment, answer.arm, answer.epoch, answer.bucket)
    ]
    shop = [service.catalogue[item.item_id] for item in answer.items]
    assert logged.items.price_minor == [item.price_minor for item in shop]
    assert logged.features is not None
    assert logged.features.schema == FEATURE_SCHEMA
    rows = unpack("item_f16", logged.features.item_f16).reshape(35, len(ITEM_COLUMNS))
    np.testing.assert_array_equal(rows, item_f16(shop))
    assert unpack("context_f16", logged.features.context_f16).size == len(CONTEXT_COLUMNS)
    assert logged.features.history.object_id == ["i-0", "i-1", "i-2"]
    assert logged.features.history.age_s == [0, 61, 122]


def test_event_time_of_the_request_counts_only_when_trusted(world: World) -> None:
    for trusted in (True, False):
        service = world.service(ServingSettings(trust_event_ts=trusted))
        run(service)
    first, second = spooled(world)
    assert first.event_ts == START_MS
    assert second.event_ts > START_MS


def test_long_lists_log_the_first_two_hundred_candidates(world: World) -> None:
    service = world.service(SETTINGS)
    use(service, StubScorer(good))

    async def go() -> RankAnswer:
        service.start()
        try:
            return await service.rank(request(num_candidates=900))
        finally:
            service.stop()

    answer = asyncio.run(go())
    assert len(answer.items) == 900
    (logged,) = spooled(world)
    assert sorted(logged.items.rank_in) == list(range(1, 201))


@pytest.mark.slow
def test_a_start_without_the_database_uses_the_local_copies(world: World) -> None:
    world.go_live("base", 1)
    world.go_live("armmt", 1, model="armmt")
    world.experiment()
    before = world.service(SETTINGS)
    before.poll()
    world.engine.dispose()
    world.url = f"sqlite:///{world.home / 'nowhere' / 'x.db'}"
    after = world.service(SETTINGS)

    async def go(service: Service) -> list[tuple[str | None, int | None, str | None, str | None]]:
        service.start()
        try:
            while service.health().status != "ready":
                await asyncio.sleep(0)
            found = [await service.rank(request(f"c-{k}")) for k in range(30)]
        finally:
            service.stop()
        return [(answer.arm, answer.bucket, answer.version, answer.fallback) for answer in found]

    one, two = asyncio.run(go(before)), asyncio.run(go(after))
    assert one == two
    assert {row[2:] for row in two} == {("1", None)}


def test_requests_in_flight_together_are_all_answered(world: World) -> None:
    # With a clock that stands still the queue costs nothing, so that no list is shed however slow the machine is.
    system = System(clock=lambda: 0.0, now_ms=lambda: START_MS, random_bytes=bytes, random=lambda: 0.0)
    service = world.service(SETTINGS, system=system)
    use(service, StubScorer(good))

    async def go() -> list[RankAnswer]:
        service.start()
        try:
            return await asyncio.gather(*(service.rank(request(f"c-{k}")) for k in range(100)))
        finally:
            service.stop()

    found = asyncio.run(go())
    assert Counter(answer.fallback for answer in found) == {None: 100}
    assert all([item.rank_in for item in answer.items] == list(range(30, 0, -1)) for answer in found)


def test_a_share_of_the_lists_is_swapped_and_logged_with_its_chances(world: World) -> None:
    service = world.service(replace(SETTINGS, swap_share=0.4))
    use(service, StubScorer(good))
    found = run(service, 20)
    logged = spooled(world)
    moved = [min(each.items.propensity or [1.0]) < 0.01 for each in logged]
    shown = [[item.item_id for item in answer.items] for answer in found]
    assert [each.items.object_id for each in logged] == shown
    best_first = [f"i-{number}" for number in range(29, -1, -1)]
    assert [ids != best_first for ids in shown] == moved
    assert 0 < sum(moved) < 20
    assert service.metrics.registry.get_sample_value("shelfwise_serving_swapped_total", {"arm": "none"}) == sum(moved)


def test_r12_an_experiment_opens_when_the_versions_of_its_arms_are_loaded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    load = scorer.Loader.load

    def waiting(loader: scorer.Loader, sha256: str) -> scorer.VersionScorer:
        released.wait(60.0)
        return load(loader, sha256)

    monkeypatch.setattr(scorer.Loader, "load", waiting)
    world.go_live("base", 1)
    world.go_live("armmt", 1, model="armmt")
    world.experiment()
    service = world.service(replace(SETTINGS, default_lineage="", poll_s=0.05))
    for _ in range(3):
        service.poll()
        assert service.health().experiment is None
    released.set()
    while service.health().experiment is None:
        service.poll()
    assert service.versions.numbers() == {"armmt": "1", "base": "1"}


def test_with_a_key_only_the_hash_of_a_client_is_assigned_and_logged(world: World) -> None:
    world.go_live("base", 1)
    world.experiment()
    key = b"0123456789abcdef0123456789abcdef"
    service = run_module.build(
        ServingSettings(deadline_ms=60_000.0),
        home=world.home,
        broker=None,
        engine=world.engine,
        query_hash_key=b"key",
        client_id_key=key,
    )
    service.poll()

    async def go() -> RankAnswer:
        service.start()
        try:
            return await service.rank(request("planted", session_id="planted", user_id="planted"))
        finally:
            service.stop()

    answer = asyncio.run(go())
    raw = b"".join(path.read_bytes() for path in (world.home / "serving").rglob("*.spool"))
    (logged,) = spooled(world)
    hashed = client_hash("planted", key)
    assert (logged.client_id, logged.session_id, logged.user_id) == (hashed, hashed, hashed)
    active = world.experiments.active("ranker")
    assert active is not None
    assert answer.bucket == active.assign(hashed)[0] != active.assign("planted")[0]
    assert hashed.encode() in raw
    assert b"planted" not in raw


def test_others_on_this_machine_read_neither_the_spool_nor_the_local_copies(world: World) -> None:
    world.go_live("base", 1)
    world.experiment()
    (world.home / "serving").mkdir(mode=0o755)
    service = world.service()
    service.poll()
    run(service)
    found = {path: path.stat().st_mode & 0o777 for path in (world.home / "serving").rglob("*")}
    assert {path.suffix for path, mode in found.items() if path.is_file()} == {".json", ".spool"}
    assert {mode for path, mode in found.items() if path.is_file()} == {0o600}
    assert {mode for path, mode in found.items() if path.is_dir()} == {0o700}
    assert (world.home / "serving").stat().st_mode & 0o777 == 0o700


def test_an_experiment_opens_although_a_lineage_has_no_version_or_a_damaged_one(world: World) -> None:
    (world.artifacts / world.go_live("base", 1) / "dense.safetensors").unlink()
    world.experiment()
    service = world.service(replace(SETTINGS, default_lineage=""))
    service.poll()
    health = service.health()
    assert health.experiment == "exp-1"
    assert list(health.refused) == ["base"]
    assert health.refused["base"].startswith("version 1: ")


def test_the_age_of_the_map_grows_while_the_database_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_store: ExperimentStore, _layer: str) -> None:
        raise StoreError("connection refused")

    readings = [100.0]
    system = System(clock=lambda: readings[0], now_ms=lambda: START_MS, random_bytes=bytes, random=lambda: 0.0)
    service = world.service(SETTINGS, system=system)
    readings[0] += 7.0
    service.poll()
    assert service.health().map_age_s == 0.0
    monkeypatch.setattr(ExperimentStore, "active", away)
    readings[0] += 31.0
    service.poll()
    assert service.health().map_age_s == 31.0
    assert service.metrics.registry.get_sample_value("shelfwise_serving_map_age_seconds") == 31.0


@pytest.mark.slow
def test_r11_a_service_that_starts_while_the_database_stalls_uses_the_local_copies(world: World) -> None:
    world.go_live("base", 1)
    world.go_live("armmt", 1, model="armmt")
    world.experiment()
    world.service(SETTINGS).poll()
    with silent_server() as port:
        url = f"postgresql://user:word@127.0.0.1:{port}/shelfwise"
        stalled = db.create(url, DatabaseSettings().at_most(DATABASE_TIMEOUT_S))
        service = world.service(SETTINGS, engine=stalled)
        service.start()
        try:
            wait_until(lambda: service.is_ready)
        finally:
            service.stop()
        stalled.dispose()
    assert service.versions.numbers() == {"armmt": "1", "base": "1"}
    assert (service.health().experiment, service.health().map_source) == ("exp-1", "copy")


def test_a_new_host_is_not_ready_before_the_database_has_answered_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no local copies: no client has an arm or a version, so no load balancer may send it any."""

    def away(_store: ExperimentStore, _layer: str) -> None:
        raise StoreError("canceling statement due to statement timeout")

    world.go_live("base", 1)
    world.go_live("armmt", 1, model="armmt")
    world.experiment()
    service = world.service()
    with monkeypatch.context() as patch:
        patch.setattr(ExperimentStore, "active", away)
        service.start()
        try:
            service.poll()
            health = service.health()
            assert (health.status, health.map_source, health.versions) == ("starting", "none", {})
            patch.undo()
            wait_until(lambda: service.is_ready)
        finally:
            service.stop()
    health = service.health()
    assert (health.map_source, health.experiment) == ("database", "exp-1")
    assert health.versions == {"armmt": "1", "base": "1"}


def test_a_host_of_a_shop_without_lineages_starts_from_its_local_copies(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_store: ExperimentStore, _layer: str) -> None:
        raise StoreError("connection refused")

    run(world.service(), 1)
    monkeypatch.setattr(ExperimentStore, "active", away)
    service = world.service()
    service.start()
    try:
        wait_until(lambda: service.is_ready)
    finally:
        service.stop()
    assert service.health().map_source == "copy"
