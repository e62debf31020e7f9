"""The process around the loop, on the memory broker: lease, lock, probes, stop, and a second trainer."""

import itertools
import socket
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Engine, select

from stream import db
from stream.broker.producer import Producer
from stream.broker.settings import Broker
from stream.errors import ArtifactError, ConfigError, FencedError, StoreError
from stream.replicas import catalogue
from stream.schemas import topics
from tests.harness.kafka import PARTITIONS
from tests.serving.world import publish
from tests.trainer.harness import LINEAGE, feed, make_loop, weights
from tests.trainer.session_log import LogRecord, make_items, make_log
from trainer.configs.smar import PROFILES
from trainer.loop import Loop
from trainer.pauses import Pauses
from trainer.rollout import changes
from trainer.rollout.changes import Change
from trainer.rollout.states import LineageView
from trainer.rollout.store import RolloutStore
from trainer.run import Dependencies, Folders, run
from trainer.settings import TrainerSettings
from trainer.versions import artifact, tables, writing
from trainer.versions.registry import Registry, Rewind
from trainer.versions.wanted import Wanted

_NO_METRICS = TrainerSettings(publish_s=40, metrics_port=0)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    return engine


def produce(broker: Broker, log: list[LogRecord]) -> None:
    with Producer(broker) as producer:
        catalogue.publish(producer, make_items())
        for record in log:
            producer.send(topics.SESSIONS, key=None, value=record.value, partition=record.partition)


def dependencies(is_stopping: Callable[[], bool], wait: Callable[[float], bool] = lambda _: False) -> Dependencies:
    ticks = itertools.count()
    pauses = Pauses(monotonic_s=lambda: float(next(ticks)) / 1000, wait=wait, random=lambda: 0.0)
    return Dependencies(now_ms=lambda: 0, pauses=pauses, is_stopping=is_stopping)


@pytest.mark.slow
def test_a_run_on_the_memory_broker_equals_the_loop_over_a_list(
    memory_broker: Broker, engine: Engine, tmp_path: Path
) -> None:
    log = make_log(120, partitions=PARTITIONS)
    left_behind = tmp_path / "checkpoints" / LINEAGE.name / ".tmp-1"
    left_behind.mkdir(parents=True)
    other = db.create("sqlite://")
    db.metadata.create_all(other)
    expected = make_loop(tmp_path / "list", other, partitions=PARTITIONS)
    feed(expected, log)
    produce(memory_broker, log)
    registry = Registry(engine)

    def is_done() -> bool:
        live = registry.live(LINEAGE.name)
        return live is not None and live.version == expected.progress.version

    loop = run(
        LINEAGE,
        _NO_METRICS,
        memory_broker,
        engine,
        folders=Folders.under(tmp_path, LINEAGE.name),
        dependencies=dependencies(is_done),
        device="cpu",
        holder="one",
    )
    assert loop.learner.counters == expected.learner.counters
    assert loop.learner.counters["trained"] == 120 + 40
    assert not left_behind.exists()


def test_a_second_process_on_the_same_checkpoints_is_refused(
    memory_broker: Broker, engine: Engine, tmp_path: Path
) -> None:
    folders = Folders.under(tmp_path, LINEAGE.name)
    refused: list[ConfigError] = []

    def start_another() -> bool:
        with pytest.raises(ConfigError, match="another trainer") as caught:
            run(
                LINEAGE,
                _NO_METRICS,
                memory_broker,
                engine,
                folders=folders,
                dependencies=dependencies(lambda: True),
                holder="one",
            )
        refused.append(caught.value)
        return True

    run(
        LINEAGE,
        _NO_METRICS,
        memory_broker,
        engine,
        folders=folders,
        dependencies=dependencies(start_another),
        device="cpu",
        holder="one",
    )
    assert len(refused) == 1


def test_a_warm_start_that_does_not_fit_is_refused_before_the_lineage_is_recorded(
    memory_broker: Broker, engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--warm-start base: lineage base has no live version"):
        run(
            LINEAGE,
            _NO_METRICS,
            memory_broker,
            engine,
            folders=Folders.under(tmp_path, LINEAGE.name),
            dependencies=dependencies(lambda: True),
            device="cpu",
            warm_start=Wanted.parse("base", "--warm-start"),
            holder="one",
        )
    assert Registry(engine).lineages() == []


def test_teachers_are_loaded_and_kept_and_those_that_do_not_fit_are_refused_before_the_lineage_is_recorded(
    memory_broker: Broker, engine: Engine, tmp_path: Path
) -> None:
    folders = Folders.under(tmp_path, "page")
    whole = artifact.load(folders.artifacts, publish(folders.artifacts, "base", 1, model="din"))
    head = msgspec.structs.replace(whole.manifest, learning={"item_type": "video"}, files={})
    videos = writing.publish(folders.artifacts, head, whole.params, whole.id_maps, whole.golden)

    def start(address: str) -> None:
        lineage = replace(LINEAGE, name="page", model="smar", config=replace(PROFILES["tiny"], teachers=(address,)))
        dependencies_ = dependencies(lambda: True)
        run(
            lineage,
            _NO_METRICS,
            memory_broker,
            engine,
            folders=folders,
            dependencies=dependencies_,
            device="cpu",
            holder="one",
        )

    for address, message in (("a" * 64, "expected a folder"), (whole.sha256, r"learning\.item_type")):
        with pytest.raises((ConfigError, ArtifactError), match=message):
            start(address)
        assert Registry(engine).lineages() == []
    start(videos)
    with db.read(engine) as connection:
        assert [tuple(row) for row in connection.execute(select(tables.teachers))] == [("page", videos)]


def test_a_held_lease_is_waited_for_and_a_stop_ends_the_wait(
    memory_broker: Broker, engine: Engine, tmp_path: Path
) -> None:
    first = Folders.under(tmp_path / "first", LINEAGE.name)
    run(
        LINEAGE,
        _NO_METRICS,
        memory_broker,
        engine,
        folders=first,
        dependencies=dependencies(lambda: True),
        device="cpu",
        holder="one",
    )
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 3

    second = Folders.under(tmp_path / "second", LINEAGE.name)
    with pytest.raises(FencedError, match="waiting for the lease"):
        run(
            LINEAGE,
            _NO_METRICS,
            memory_broker,
            engine,
            folders=second,
            dependencies=dependencies(lambda: True, wait),
            holder="two",
        )
    assert len(waits) == 3


def test_a_trainer_that_lost_its_lease_publishes_nothing_more(engine: Engine, tmp_path: Path) -> None:
    log = make_log(120)
    frozen = make_loop(tmp_path / "frozen", engine)
    feed(frozen, log[:80])
    published = frozen.progress.version
    taker = make_loop(tmp_path / "taker", engine)
    with pytest.raises(FencedError):
        frozen.push(log[80:])
    versions = Registry(engine).versions(LINEAGE.name)
    assert [version.version for version in versions] == list(range(1, published + 1))
    feed(taker, log)
    versions = Registry(engine).versions(LINEAGE.name)
    assert [version.version for version in versions] == list(range(1, len(versions) + 1))
    assert {version.term for version in versions[published:]} == {2}


def test_without_a_database_training_pauses_at_the_version_and_goes_on(engine: Engine, tmp_path: Path) -> None:
    log = make_log(120)
    db.metadata.tables["rollout_events"].drop(engine)
    lost = make_loop(tmp_path, engine)
    with pytest.raises(StoreError):
        feed(lost, log)
    assert lost.progress.num_published == 0
    db.metadata.create_all(engine)
    resumed = make_loop(tmp_path, engine)
    feed(resumed, log)
    assert [version.status for version in Registry(engine).versions(LINEAGE.name)][-1] == "live"
    assert resumed.learner.counters["trained"] == 120 + 40


@pytest.mark.slow
def test_after_a_rollback_the_next_process_reads_the_range_again(
    memory_broker: Broker, engine: Engine, tmp_path: Path
) -> None:
    log = make_log(120, partitions=PARTITIONS)
    produce(memory_broker, log)
    registry, folders = Registry(engine), Folders.under(tmp_path, LINEAGE.name)

    def train(until: int) -> Loop:
        def is_done() -> bool:
            return any(each.version == until and each.status != "published" for each in registry.versions(LINEAGE.name))

        return run(
            LINEAGE,
            _NO_METRICS,
            memory_broker,
            engine,
            folders=folders,
            dependencies=dependencies(is_done),
            device="cpu",
            holder="one",
        )

    first = train(3)
    act(engine, lambda view: changes.rollback(view, 1, "replay", "test"))
    second = train(5)
    assert weights(second) == weights(first)
    assert second.learner.counters == first.learner.counters
    found = registry.versions(LINEAGE.name)
    assert [each.status for each in found] == ["live", "quarantined", "rolled_back", "verified", "verified"]
    assert [each.parent for each in found[3:]] == [found[0].artifact, found[3].artifact]
    assert [each.offsets for each in found[3:]] == [each.offsets for each in found[1:3]]


@pytest.mark.parametrize("decides", [True, False], ids=["decided", "stopped"])
def test_a_trainer_waits_after_a_rollback_until_a_user_decides(
    memory_broker: Broker, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, decides: bool
) -> None:
    folders = Folders.under(tmp_path, LINEAGE.name)
    run(
        LINEAGE,
        _NO_METRICS,
        memory_broker,
        engine,
        folders=folders,
        dependencies=dependencies(lambda: True),
        device="cpu",
        holder="one",
    )
    registry, settings = Registry(engine), replace(_NO_METRICS, metrics_port=free_port())
    publish_live(registry)
    act(engine, lambda view: changes.rollback(view, None, "wait", "test"))
    answers: list[tuple[int, str]] = []
    read = Registry.rewind

    def fail_once(_own: Registry, _lineage: str) -> Rewind | None:
        monkeypatch.setattr(Registry, "rewind", read)
        raise StoreError("the database is away")

    monkeypatch.setattr(Registry, "rewind", fail_once)

    def wait(_seconds: float) -> bool:
        answers.append(answer(settings.metrics_port, "/readyz"))
        assert [event.to_status for event in RolloutStore(engine).history(LINEAGE.name)][-1] == "rolled_back"
        if decides and len(answers) == 3:
            act(engine, lambda view: changes.rewind(view, "replay", "test"))
        return not decides and len(answers) == 3

    loop = run(
        LINEAGE,
        settings,
        memory_broker,
        engine,
        folders=folders,
        dependencies=dependencies(lambda: len(answers) == 3, wait),
        device="cpu",
        holder="one",
    )
    expected = (
        f"waits after a rollback to version 0: shelfwise rollout rewind {LINEAGE.name} replay or skip, or"
        " shelfwise rollout resume, lets training go on\n"
    )
    assert answers == [(503, "no record of the topic sessions was read yet\n"), *[(503, expected)] * 2]
    has_gone_back = [event.to_status for event in RolloutStore(engine).history(LINEAGE.name)][-1] == "rewound"
    assert has_gone_back == decides
    assert loop.progress.version == (1 if decides else 0)


def publish_live(registry: Registry) -> None:
    """Let version 1 of the lineage go live."""
    term = registry.leases.acquire(LINEAGE.name, "one", 0, 1_000)
    registry.publish(LINEAGE.name, 1, "a" * 64, parent=None, term=term, metrics={}, offsets={}, published_ts=0)
    for status in ("verified", "live"):
        registry.advance(LINEAGE.name, 1, term, to_status=status, why="test", now_ms=0)


def act(engine: Engine, decide: Callable[[LineageView], Change]) -> None:
    RolloutStore(engine).command(LINEAGE.name, "test", decide, user="ada", request_id=None, now_ms=0)


def answer(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_trainer_is_ready_once_it_has_read_and_while_it_holds_the_lease(
    memory_broker: Broker, engine: Engine, tmp_path: Path
) -> None:
    settings = replace(_NO_METRICS, metrics_port=free_port())
    seconds = 0.0
    answers: list[tuple[int, str]] = []

    def is_done() -> bool:
        nonlocal seconds
        answers.append(answer(settings.metrics_port, "/readyz"))
        seconds += len(answers) * settings.lease_ttl_s / 4
        if len(answers) == 3:
            # The database is gone: the lease cannot be renewed and expires.
            db.metadata.tables["leases"].drop(engine)
        return len(answers) == 6

    pauses = Pauses(monotonic_s=lambda: seconds, wait=lambda _: False, random=lambda: 0.0)
    run(
        LINEAGE,
        settings,
        memory_broker,
        engine,
        folders=Folders.under(tmp_path, LINEAGE.name),
        dependencies=Dependencies(now_ms=lambda: 0, pauses=pauses, is_stopping=is_done),
        device="cpu",
        holder="one",
    )
    statuses = [status for status, _ in answers]
    assert statuses[:3] == [503, 200, 200]
    assert answers[0][1] == "no record of the topic sessions was read yet\n"
    assert answers[-1] == (503, "the lease of the lineage is not held\n")
    with pytest.raises(OSError, match="refused"):
        answer(settings.metrics_port, "/livez")
