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
    registry.publish(
        "armmt",
        version,
        ARTIFACTS[version - 1],
        parent=parent,
        term=term,
        metrics={"auc": 0.5},
        offsets={"0": 7},
        published_ts=1_000,
    )


def test_lineage_must_stay_what_it_was(registry: Registry) -> None:
    assert registry.ensure_lineage("armmt", "armmt", "tiny", "h" * 64).config_hash == "h" * 64
    with pytest.raises(ConfigError, match="config_hash"):
        registry.ensure_lineage("armmt", "armmt", "tiny", "x" * 64)
    assert [lineage.name for lineage in registry.lineages()] == ["armmt"]


def test_stale_writers_change_nothing(registry: Registry) -> None:
    old = registry.leases.acquire("armmt", "one", 0, 100)
    publish(registry, 1, old)
    new = registry.leases.acquire("armmt", "two", 200, 100)
    with pytest.raises(FencedError):
        publish(registry, 2, old)
    with pytest.raises(FencedError):
        registry.advance("armmt", 1, old, to_status="verified", why="late", now_ms=300)
    publish(registry, 2, new)
    assert [(v.version, v.term, v.status) for v in registry.versions()] == [(1, 1, "published"), (2, 2, "published")]


def test_version_numbers_rise(registry: Registry) -> None:
    term = registry.leases.acquire("armmt", "one", 0, 100)
    publish(registry, 2, term)
    for number in (1, 2):
        with pytest.raises(FencedError, match="refused"):
            publish(registry, number, term)


def test_going_live_supersedes_the_former_version(registry: Registry, engine: Engine) -> None:
    term = registry.leases.acquire("armmt", "one", 0, 100)
    assert registry.live("armmt") is None
    for number in (1, 2):
        publish(registry, number, term)
        with pytest.raises(FencedError, match="not 'verified'"):
            registry.advance("armmt", number, term, to_status="live", why="too early", now_ms=1_000)
        registry.advance("armmt", number, term, to_status="verified", why="golden", now_ms=1_000)
        registry.advance("armmt", number, term, to_status="live", why="checks", now_ms=1_000)
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


def test_a_failed_move_leaves_the_live_version_alone(registry: Registry) -> None:
    term = registry.leases.acquire("armmt", "one", 0, 100)
    publish(registry, 1, term)
    registry.advance("armmt", 1, term, to_status="verified", why="golden", now_ms=1_000)
    registry.advance("armmt", 1, term, to_status="live", why="checks", now_ms=1_000)
    publish(registry, 2, term)
    with pytest.raises(FencedError):
        registry.advance("armmt", 2, term, to_status="live", why="not verified", now_ms=1_000)
    live = registry.live("armmt")
    assert live is not None
    assert live.version == 1
