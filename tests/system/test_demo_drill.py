"""The drill in a demo: the version with flipped labels is refused and shown to no one, and later ones go live."""

from pathlib import Path

import pytest

from tests.harness.demo import demo, wait_until_none

pytestmark = [pytest.mark.kafka, pytest.mark.system]


def test_a_version_with_flipped_labels_is_refused_and_the_trainer_recovers(tmp_path: Path) -> None:
    with demo(tmp_path, "--drill", "--seed", "1") as running:
        summary = running.finish()
        said = running.said
        wait_until_none(running.home)
    found = summary.drill
    assert found is not None
    assert found.version is not None, said
    # On a fast machine the version has few judged lists, passes, and is taken back by what is trained from it.
    assert found.outcome in {"rejected", "quarantined"}, said
    assert found.lists == 0 or found.outcome == "quarantined", said
    assert found.trainer_back_at is not None
    assert found.trainer_back_at < found.version
    assert found.live_again is not None, said
    assert found.live_again > found.version
    assert found.steps
    assert all(step in said for step in found.steps)
    assert summary.conservation.closed
    now = summary.truth.now["armmt"]
    assert now is not None
    assert now > 0
    page = Path(summary.report_html).read_text()
    assert "<h2>The drill</h2>" in page
