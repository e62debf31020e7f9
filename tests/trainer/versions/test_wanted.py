"""Versions that options name: the teachers of a page ranker by lineage and number."""

from dataclasses import replace

import pytest

from stream import db
from stream.errors import ConfigError
from tests.trainer.versions.test_registry import ARTIFACTS, publish
from trainer.configs import MODEL_PROFILES
from trainer.configs.smar import PROFILES
from trainer.versions.registry import Registry
from trainer.versions.wanted import taught

SMAR = PROFILES["tiny"]


@pytest.fixture
def registry() -> Registry:
    """A registry with the versions 1 to 3 of `armmt`, of which the first is retired."""
    engine = db.create("sqlite://")
    db.metadata.create_all(engine)
    registry = Registry(engine)
    registry.ensure_lineage("armmt", "armmt", "tiny", "h" * 64)
    term = registry.leases.acquire("armmt", "one", 0, 100)
    for version in (1, 2, 3):
        publish(registry, version, term)
    registry.retire("armmt", 2, term, 1_000)
    return registry


def test_teachers_are_the_addresses_of_the_versions(registry: Registry) -> None:
    assert taught(SMAR, ["armmt:3", "armmt:2"], registry) == replace(SMAR, teachers=(ARTIFACTS[2], ARTIFACTS[1]))
    beside = replace(SMAR, teachers=(ARTIFACTS[0],))
    assert taught(beside, ["armmt:3"], registry) == replace(SMAR, teachers=(ARTIFACTS[0], ARTIFACTS[2]))
    assert taught(MODEL_PROFILES["prm"]["tiny"], [], registry) == MODEL_PROFILES["prm"]["tiny"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["armmt"], "--teacher armmt: expected armmt:VERSION"),
        (["armmt:1"], "--teacher armmt:1: version 1 is retired"),
        (["armmt:4"], "--teacher armmt:4: lineage armmt has no version 4; its versions are 1 to 3"),
        (["videos:1"], "--teacher videos:1: lineage videos has no version 1; it has no versions"),
        (["armmt:x"], "--teacher armmt:x: version 'x': expected a number"),
        (["armmt:3", "armmt:3"], "--teacher: one version is named twice"),
    ],
)
def test_a_teacher_that_cannot_be_meant_is_refused_by_name(registry: Registry, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        taught(SMAR, names, registry)
    assert message in str(refused.value)


def test_other_models_have_no_teachers(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="--teacher armmt:3: only the model smar has teachers"):
        taught(MODEL_PROFILES["prm"]["tiny"], ["armmt:3"], registry)
