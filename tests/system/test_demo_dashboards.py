"""Both dashboards on a demo: a real Prometheus scrapes its processes, a real PostgreSQL holds its facts."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.demo import arms
from deploy.demo.processes import trainer_name
from deploy.grafana import generate
from deploy.grafana.rollout import ROLLOUT
from stream import db
from tests.harness.demo import demo, wait_until_none
from tests.harness.grafana import check, queries
from tests.harness.grafana.check import PanelRows
from tests.harness.postgres import new_database
from tests.harness.prometheus import SCRAPE_S, Prometheus, prometheus

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.system]
OPTIONS = ("--hours", "2", "--rate", "900", "--seed", "3", "--publish-s", "600", "--lineages", "prm,armmt")
# Two hours take two minutes at least: enough scrapes for every rate, on any machine.
ARMS = arms.learned(("prm", "armmt"))
SETTINGS = {"SHELFWISE_MARKETPLACE__PACE": "60", "SHELFWISE_TRAINER__HOLD_LISTS": "0"}
# A demo takes no look at its experiment.
LOOKS = "Looks"
# A demo has no controller.
CONTROLLED = {
    panel.title for panel in ROLLOUT.panels if all("shelfwise_rollout_" in query.text for query in panel.queries)
}
CHILDREN = {
    "shelfwise-joiner": ("joiner",),
    "shelfwise-trainer": tuple(trainer_name(arm) for arm in ARMS),
    "shelfwise-sink": ("sink",),
    "shelfwise-serving": ("serving",),
}


def test_every_panel_of_both_dashboards_shows_a_running_demo(postgres_url: str, tmp_path: Path) -> None:
    database = new_database(postgres_url)
    settings = SETTINGS | {"SHELFWISE_DATABASE": database}
    with demo(tmp_path / "home", *OPTIONS, settings=settings) as running:
        names = [name for group in CHILDREN.values() for name in group]
        running.wait_for("all processes", lambda: all(running.port(name) for name in names))
        jobs = {job: [running.port(name) or 0 for name in group] for job, group in CHILDREN.items()}
        with prometheus(tmp_path, jobs) as server:
            running.wait_for("swapped versions", lambda: _has_swapped(server))
            loop = [rows for rows in _of_prometheus(server.url) if rows.panel not in CONTROLLED]
            _assert_complete(loop)
            assert running.pid("marketplace", "run") is not None, f"checked too late:\n{running.words()}"
            summary = running.finish()
        wait_until_none(running.home)
    assert summary.conservation.closed
    experiment = _of_database(database)
    _assert_complete([panel for panel in experiment if panel.panel != LOOKS])
    assert [(panel.rows, panel.error) for panel in experiment if panel.panel == LOOKS] == [(0, "")]
    shown = {panel.dashboard: _titles(checked) for checked in (loop, experiment) for panel in checked}
    models = [queries.parse(content) for content in generate.rendered().values()]
    with_targets = {model.uid: {panel.title for panel in model.panels if panel.targets} for model in models}
    assert shown == {uid: titles - {LOOKS} - CONTROLLED for uid, titles in with_targets.items()}
    for checked in (loop, experiment):
        sys.stderr.write(f"{len(_titles(checked))} panels, {len(checked)} queries, ")
        sys.stderr.write(f"{sum(panel.rows for panel in checked)} rows or series\n")
    versions = {row.lineage: row.published for row in summary.versions}
    rows = {panel.panel: panel.rows for panel in experiment}
    assert rows["Versions"] == sum(versions.values())
    assert rows["Exposed clients"] == len(arms.all_arms(("prm", "armmt")))


def _has_swapped(server: Prometheus) -> bool:
    """Tell whether serving has changed versions of every lineage while it was watched."""
    swapped = server.query("sum by (lineage) (shelfwise_serving_version_changes_total) >= 2")
    return {series.metric["lineage"] for series in swapped} == {arm.lineage for arm in ARMS}


def _of_prometheus(url: str) -> list[PanelRows]:
    now = datetime.now(UTC)  # noqa: TID251 - Prometheus stamps its samples with the clock of this machine
    window = check.Range(start=now - timedelta(minutes=15), end=now, scrape_s=SCRAPE_S)
    return [rows for board in check.dashboards() for rows in check.check_prometheus(url, board, window)]


def _of_database(url: str) -> list[PanelRows]:
    engine = db.create(url)
    # Event time is simulated: no limits.
    ever = check.Range(start=datetime(1970, 1, 1, tzinfo=UTC), end=datetime(2100, 1, 1, tzinfo=UTC))
    try:
        return [rows for board in check.dashboards() for rows in check.check_postgres(engine, board, ever)]
    finally:
        engine.dispose()


def _assert_complete(checked: list[PanelRows]) -> None:
    assert check.empty_panels(checked) == []
    assert [panel for panel in checked if panel.error] == []


def _titles(checked: list[PanelRows]) -> set[str]:
    return {panel.panel for panel in checked if panel.rows}
