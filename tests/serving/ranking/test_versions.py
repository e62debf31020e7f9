from collections import Counter

import pytest

from serving.metrics import Metrics
from serving.ranking.versions import (
    NO_VERSION,
    QUARANTINED,
    WITHDRAWN,
    Choice,
    LineageVersions,
    ServedVersion,
    VersionManager,
)
from tests.serving.world import StubScorer
from trainer.rollout.slices import salt, slice_of


def version(number: int, lineage: str = "base") -> ServedVersion:
    return ServedVersion(lineage=lineage, number=number, artifact=f"{number:064x}", scorer=StubScorer())


def manager(max_bad_outputs: int = 1) -> VersionManager:
    return VersionManager(Metrics(), max_bad_outputs=max_bad_outputs)


CLIENTS = [f"client-{k}" for k in range(1_000)]
ONE, TWO, THREE = (version(number) for number in (1, 2, 3))


def test_a_choice_says_why_there_is_no_version() -> None:
    versions = manager()
    assert versions.routes.choose(None, "c-1") == Choice()
    assert versions.routes.choose("base", "c-1") == Choice(fallback=NO_VERSION)
    versions.use(LineageVersions(lineage="base", ranked=(ONE,)))
    assert versions.routes.choose("base", "c-1") == Choice(version=ONE, counts_for=1)
    versions.report_bad_output(ONE)
    assert versions.routes.choose("base", "c-1") == Choice(fallback=QUARANTINED)
    assert (versions.is_quarantined("base", 1), versions.is_quarantined("base", 2)) == (True, False)
    versions.use(LineageVersions(lineage="base", missing=WITHDRAWN))
    assert versions.routes.choose("base", "c-1") == Choice(fallback=WITHDRAWN)


def test_a_quarantined_version_gives_way_to_the_former_one_and_stays_out() -> None:
    versions = manager()
    for _ in range(2):
        versions.use(LineageVersions(lineage="base", ranked=(TWO, ONE)))
        versions.report_bad_output(TWO)
        assert versions.numbers() == {"base": "1"}


def test_clients_of_the_canary_get_it_and_those_of_the_control_slice_the_live_version() -> None:
    versions = manager()
    versions.use(LineageVersions(lineage="base", ranked=(ONE,), canary=TWO, share=0.1))
    key = salt("base", 2)
    for client in CLIENTS:
        part = slice_of(client, key, 0.1)
        assert versions.routes.choose("base", client) == Choice(
            TWO if part == "canary" else ONE, part, None, 2 if part else 1
        )
    parts = Counter(versions.routes.choose("base", client).slice for client in CLIENTS)
    assert min(parts["canary"], parts["control"]) > 60
    assert parts[None] > 700


def test_without_a_live_version_the_canary_answers_its_clients_only() -> None:
    versions = manager()
    versions.use(LineageVersions(lineage="base", canary=TWO, share=0.1))
    found = {versions.routes.choose("base", client) for client in CLIENTS}
    assert found == {
        Choice(TWO, "canary", None, 2),
        Choice(None, "control", NO_VERSION, 2),
        Choice(None, None, NO_VERSION),
    }


def test_a_quarantined_canary_opens_neither_slice() -> None:
    versions = manager()
    versions.use(LineageVersions(lineage="base", ranked=(ONE,), canary=TWO, share=0.5))
    versions.report_bad_output(TWO)
    assert {versions.routes.choose("base", client) for client in CLIENTS} == {Choice(version=ONE, counts_for=1)}


def test_readers_keep_the_routes_that_they_took() -> None:
    versions = manager()
    versions.use(LineageVersions(lineage="base", ranked=(ONE,)))
    taken = versions.routes
    versions.use(LineageVersions(lineage="base", ranked=(TWO, ONE), canary=THREE, share=1.0))
    assert taken.choose("base", "c-1") == Choice(version=ONE, counts_for=1)
    versions.drop("base")
    assert versions.routes.choose("base", "c-1") == Choice(fallback=NO_VERSION)


@pytest.mark.parametrize("ranked", [(), (TWO, ONE)])
def test_the_metric_names_the_version_that_answers(ranked: tuple[ServedVersion, ...]) -> None:
    metrics = Metrics()
    versions = VersionManager(metrics, max_bad_outputs=1)
    for each in ((ONE,), ranked):
        versions.use(LineageVersions(lineage="base", ranked=each))
    value = metrics.registry.get_sample_value("shelfwise_serving_version", {"lineage": "base"})
    assert value == (2.0 if ranked else None)
