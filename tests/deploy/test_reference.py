"""The generated pages of the documentation, and the names that dashboards and alerts use."""

import re
from pathlib import Path

from deploy import reference
from deploy.grafana import generate

ROOT = Path(__file__).parents[2]
ENTRIES = [entry for entries in reference.prometheus_metrics().values() for entry in entries]
NAMES = {entry.name for entry in ENTRIES}
SERIES = NAMES | {
    f"{entry.name}_{part}" for entry in ENTRIES if entry.kind == "histogram" for part in ("bucket", "count", "sum")
}


def test_the_metrics_reference_is_up_to_date() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == reference.metrics(), "run `make docs`"


def test_a_name_belongs_to_one_metric_with_a_help_text() -> None:
    assert len(NAMES) == len(ENTRIES) > 30
    for entry in ENTRIES:
        assert re.fullmatch(r"shelfwise_(join|trainer|serving|sink|watch|rollout)_[a-z_]+", entry.name), entry
        assert len(entry.help) > 5, entry


def test_dashboards_and_alerts_use_declared_metrics() -> None:
    texts = [content.decode() for content in generate.rendered().values()]
    texts.append((ROOT / "deploy/prometheus/rules.yml").read_text())
    used = {name for text in texts for name in re.findall(r"\bshelfwise_\w+", text)}
    assert len(used) > 25
    assert used <= SERIES


def test_pages_and_schemas_are_written_as_they_are_committed(tmp_path: Path) -> None:
    written = {path.relative_to(tmp_path): path.read_bytes() for path in reference.write(tmp_path)}
    assert written == {path: (ROOT / "docs" / path).read_bytes() for path in written}
    assert {path.name for path in written} >= {"configuration.md", "metrics.md", "sessions.json", "demo-summary.json"}
