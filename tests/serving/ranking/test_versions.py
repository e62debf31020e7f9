from serving.metrics import Metrics
from serving.ranking.versions import NO_VERSION, QUARANTINED, ServedVersion, VersionManager
from tests.serving.world import StubScorer


def version(number: int) -> ServedVersion:
    return ServedVersion(lineage="base", number=number, artifact=f"{number:064x}", scorer=StubScorer())


def test_one_former_version_stays_in_memory() -> None:
    versions = VersionManager(Metrics(), max_bad_outputs=5)
    for number in (1, 2, 3):
        versions.activate(version(number))
    used = versions.get("base")
    assert used is not None
    assert used.previous is not None
    assert (used.number, used.previous.number, used.previous.previous) == (3, 2, None)
    assert versions.numbers() == {"base": "3"}


def test_a_selection_says_why_there_is_no_version() -> None:
    versions = VersionManager(Metrics(), max_bad_outputs=1)
    assert versions.select(None) == (None, None)
    assert versions.select("base") == (None, NO_VERSION)
    versions.activate(version(1))
    used, reason = versions.select("base")
    assert used is not None
    assert reason is None
    versions.report_bad_output(used)
    assert versions.select("base") == (None, QUARANTINED)
    assert versions.is_quarantined("base", 1)
    assert not versions.is_quarantined("base", 2)
