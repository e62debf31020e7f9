"""Both dashboards on a demo: a real Prometheus scrapes its processes, a real PostgreSQL holds its facts."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.demo.stack import ARMS, trainer_name
from deploy.grafana import generate, queries
from tests.harness.demo import ROOT, demo, wait_until_none
from tests.harness.postgres import new_database
from tests.harness.prometheus import SCRAPE_S, Prometheus, prometheus

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.system]
OPTIONS = ("--hours", "2", "--rate", "900", "--seed", "3", "--publish-s", "600")
# Two hours take two minutes at least: enough scrapes for every rate, on any machine.
SETTINGS = {"SHELFWISE_MARKETPLACE__PACE": "60"}
CHILDREN = {
    "shelfwise-joiner": ("joiner",),
    "shelfwise-trainer": tuple(trainer_name(arm) for arm in ARMS),
    "shelfwise-sink": ("sink",),
    "shelfwise-serving": ("serving",),
}


class _Panel(msgspec.Struct):
    dashboard: str
    panel: str
    ref: str
    rows: int
    error: str


class _Checked(msgspec.Struct):
    panels: list[_Panel]
    empty: list[str]


def test_every_panel_of_both_dashboards_shows_a_running_demo(postgres_url: str, tmp_path: Path) -> None:
    database = new_database(postgres_url)
    settings = SETTINGS | {"SHELFWISE_DATABASE": database}
    with demo(tmp_path / "home", *OPTIONS, settings=settings) as running:
        names = [name for group in CHILDREN.values() for name in group]
        running.wait_for("all processes", lambda: all(running.port(name) for name in names))
        jobs = {job: [running.port(name) or 0 for name in group] for job, group in CHILDREN.items()}
        with prometheus(tmp_path, jobs) as server:
            running.wait_for("swapped versions", lambda: _has_swapped(server))
            loop = _check("--prometheus", server.url, "--scrape-seconds", str(SCRAPE_S))
            assert running.pid("marketplace", "run") is not None, f"checked too late:\n{running.words()}"
            summary = running.finish()
        wait_until_none(running.home)
    assert summary.conservation.closed
    experiment = _check("--database", database)
    shown = {panel.dashboard: _titles(checked) for checked in (loop, experiment) for panel in checked.panels}
    models = [queries.parse(content) for content in generate.rendered().values()]
    assert shown == {model.uid: {panel.title for panel in model.panels if panel.targets} for model in models}
    for checked in (loop, experiment):
        sys.stderr.write(f"{len(_titles(checked))} panels, {len(checked.panels)} queries, ")
        sys.stderr.write(f"{sum(panel.rows for panel in checked.panels)} rows or series\n")
    versions = {row.lineage: row.published for row in summary.versions}
    rows = {panel.panel: panel.rows for panel in experiment.panels}
    assert rows["Versions"] == sum(versions.values())
    assert rows["Exposed clients"] == len(ARMS)


def _has_swapped(server: Prometheus) -> bool:
    """Tell whether serving has changed versions of every lineage while it was watched."""
    swapped = server.query("sum by (lineage) (shelfwise_serving_swaps_total) >= 2")
    return {series.metric["lineage"] for series in swapped} == {arm.lineage for arm in ARMS}


def _check(*options: str) -> _Checked:
    inherited = dict(os.environ)  # noqa: TID251 - a child inherits all but our own settings
    environment = {name: value for name, value in inherited.items() if not name.startswith("SHELFWISE_")}
    done = subprocess.run(
        [sys.executable, "-m", "deploy", "grafana", "check", *options, "--json"],
        env=environment,
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, (
        f"exit code {done.returncode}:\n{done.stderr.decode()}\n{done.stdout.decode()[-4_000:]}"
    )
    checked = msgspec.json.decode(done.stdout, type=_Checked)
    assert checked.empty == []
    assert [panel for panel in checked.panels if panel.error] == []
    return checked


def _titles(checked: _Checked) -> set[str]:
    return {panel.panel for panel in checked.panels if panel.rows}
