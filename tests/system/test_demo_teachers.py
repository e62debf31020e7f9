"""Teachers in a demo: they learn one type each and end, and the page ranker that they teach is served."""

from pathlib import Path

import pytest

from tests.harness.demo import demo, wait_until_none

pytestmark = pytest.mark.system
OPTIONS = ("--hours", "0.7", "--rate", "600", "--seed", "5", "--publish-s", "120")
# So short a run has no evidence for a first version; 42 s of searches are long enough for trainers to keep up.
SETTINGS = {
    "SHELFWISE_BROKER": "memory",
    "SHELFWISE_TRAINER__HOLD_LISTS": "0",
    "SHELFWISE_MARKETPLACE__PACE": "60",
}


def test_a_page_ranker_with_teachers_is_trained_and_served(tmp_path: Path) -> None:
    with demo(tmp_path, *OPTIONS, "--lineages", "smar", "--teachers", "product,video", settings=SETTINGS) as running:
        summary = running.finish()
        said = running.said
        wait_until_none(running.home)
    assert "teacher-product:1, teacher-video:1 teach: starting trainer-smar" in said, said
    assert summary.conservation.closed
    (row,) = summary.versions
    assert row.published > 1
    assert row.served > 1
    assert any(version.lists for version in summary.truth.versions), said
