from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select

from stream import db
from stream.errors import ConfigError, FencedError
from trainer.versions.registry import Registry
from trainer.versions.tables import rollout_events

ARTIFACTS = ["a" * 64, "b" * 64, "c" * 64]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    url = "sqlite://" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))
    engine = db.create(url)
    db.metadata.drop_all(engine)
    db.metadata.create_all(engine)
    yield engine
    db.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def registry(engine: Engine) -> Registry:
    registry = Registry(engine)
    registry.ensure_lineage("armmt", "armmt", "tiny", "h" * 64)
    return registry


def publish(registry: Registry, version: int, term: int) -> None:
    parent = ARTIFACTS[version - 2] if version > 1 else None
    registry.publish("armmt", version, ARTIFACTS[version - 1], parent, term, {"auc": 0.5}, {"0": 7}, 1_000)


def test_lineage_must_stay_what_it_was(registry: Registry) -> None:
    assert registry.ensure_lineage("armmt", "armmt", "tiny", "h" * 64).status == "draft"
    with pytest.raises(ConfigError, match="config_hash"):
        registry.ensure_lineage("armmt", "armmt", "tiny", "x" * 64)
    assert [lineage.name for lineage in registry.lineages()] == ["armmt"]


def test_lease_is_taken_renewed_lost_and_taken_over(registry: Registry) -> None:
    assert registry.acquire_lease("armmt", "one", 0, 100) == 1
    with pytest.raises(FencedError, match="'one' holds"):
        registry.acquire_lease("armmt", "two", 99, 100)
    registry.renew_lease("armmt", 1, 90, 100)
    with pytest.raises(FencedError):
        registry.acquire_lease("armmt", "two", 150, 100)
    assert registry.acquire_lease("armmt", "two", 190, 100) == 2
    with pytest.raises(FencedError, match="term 1"):
        registry.renew_lease("armmt", 1, 191, 100)
    assert registry.acquire_lease("armmt", "two", 195, 100) == 3
    with pytest.raises(FencedError, match="no lease row"):
        registry.acquire_lease("unknown", "two", 195, 100)


def test_stale_writers_change_nothing(registry: Registry) -> None:
    old = registry.acquire_lease("armmt", "one", 0, 100)
    publish(registry, 1, old)
    new = registry.acquire_lease("armmt", "two", 200, 100)
    with pytest.raises(FencedError):
        publish(registry, 2, old)
    with pytest.raises(FencedError):
        registry.advance("armmt", 1, old, "verified", "late", 300)
    publish(registry, 2, new)
    assert [(v.version, v.term, v.status) for v in registry.versions()] == [(1, 1, "published"), (2, 2, "published")]


def test_version_numbers_rise(registry: Registry) -> None:
    term = registry.acquire_lease("armmt", "one", 0, 100)
    publish(registry, 2, term)
    for number in (1, 2):
        with pytest.raises(FencedError, match="refused"):
            publish(registry, number, term)


def test_going_live_supersedes_the_former_version(registry: Registry, engine: Engine) -> None:
    term = registry.acquire_lease("armmt", "one", 0, 100)
    assert registry.live("armmt") is None
    for number in (1, 2):
        publish(registry, number, term)
        with pytest.raises(FencedError, match="not 'verified'"):
            registry.advance("armmt", number, term, "live", "too early", 1_000)
        registry.advance("armmt", number, term, "verified", "golden", 1_000)
        registry.advance("armmt", number, term, "live", "checks", 1_000)
    live = registry.live("armmt")
    assert live is not None
    assert (live.version, live.artifact, live.parent) == (2, ARTIFACTS[1], ARTIFACTS[0])
    assert (live.metrics, live.offsets) == ({"auc": 0.5}, {"0": 7})
    assert [version.status for version in registry.versions("armmt")] == ["superseded", "live"]
    with db.transaction(engine) as connection:
        columns = (rollout_events.c.version, rollout_events.c.to_status)
        moves = connection.execute(select(*columns).order_by(rollout_events.c.id)).all()
    assert [tuple(move) for move in moves] == [
        (1, "published"),
        (1, "verified"),
        (1, "live"),
        (2, "published"),
        (2, "verified"),
        (1, "superseded"),
        (2, "live"),
    ]


def test_versions_that_others_need_are_not_retired(registry: Registry) -> None:
    term = registry.acquire_lease("armmt", "one", 0, 100)
    for number in (1, 2, 3):
        publish(registry, number, term)
    registry.advance("armmt", 2, term, "rejected", "golden", 1_000)
    assert [version.version for version in registry.kept("armmt", 1)] == [3]
    assert [version.version for version in registry.kept("armmt", 2)] == [2, 3]
    assert [version.version for version in registry.retire("armmt", 1, term, 2_000, {ARTIFACTS[0]})] == [2]
    assert [version.version for version in registry.retire("armmt", 1, term, 3_000)] == [1]
    assert [version.is_gone for version in registry.versions("armmt")] == [True, True, False]


def test_teachers_stay_while_a_lineage_names_them(registry: Registry) -> None:
    term = registry.acquire_lease("armmt", "one", 0, 100)
    for number in (1, 2, 3):
        publish(registry, number, term)
    for _ in range(2):
        registry.ensure_lineage("page", "smar", "tiny", "h" * 64, keeps=(ARTIFACTS[0],))
    assert [version.version for version in registry.kept("armmt", 1)] == [1, 3]
    assert [version.version for version in registry.retire("armmt", 1, term, 2_000)] == [2]


def test_a_failed_move_leaves_the_live_version_alone(registry: Registry) -> None:
    term = registry.acquire_lease("armmt", "one", 0, 100)
    publish(registry, 1, term)
    registry.advance("armmt", 1, term, "verified", "golden", 1_000)
    registry.advance("armmt", 1, term, "live", "checks", 1_000)
    publish(registry, 2, term)
    with pytest.raises(FencedError):
        registry.advance("armmt", 2, term, "live", "not verified", 1_000)
    live = registry.live("armmt")
    assert live is not None
    assert live.version == 1
