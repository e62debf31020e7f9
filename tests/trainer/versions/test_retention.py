"""Versions that stay, on SQLite and PostgreSQL."""

from tests.trainer.versions.test_registry import ARTIFACTS, engine, publish, registry
from trainer.versions.registry import Registry

__all__ = ["engine", "registry"]


def test_versions_that_others_need_are_not_retired(registry: Registry) -> None:
    term = registry.leases.acquire("armmt", "one", 0, 100)
    for number in (1, 2, 3):
        publish(registry, number, term)
    registry.advance("armmt", 2, term, to_status="rejected", why="golden", now_ms=1_000)
    assert [version.version for version in registry.kept("armmt", 1)] == [3]
    assert [version.version for version in registry.kept("armmt", 2)] == [2, 3]
    assert [version.version for version in registry.retire("armmt", 1, term, 2_000, {ARTIFACTS[0]})] == [2]
    assert [version.version for version in registry.retire("armmt", 1, term, 3_000)] == [1]
    assert [version.is_gone for version in registry.versions("armmt")] == [True, True, False]


def test_teachers_stay_while_a_lineage_names_them(registry: Registry) -> None:
    term = registry.leases.acquire("armmt", "one", 0, 100)
    for number in (1, 2, 3):
        publish(registry, number, term)
    for _ in range(2):
        registry.ensure_lineage("page", "smar", "tiny", "h" * 64, keeps=(ARTIFACTS[0],))
    assert [version.version for version in registry.kept("armmt", 1)] == [1, 3]
    assert [version.version for version in registry.retire("armmt", 1, term, 2_000)] == [2]
