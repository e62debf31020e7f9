from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from deploy.cli import app
from stream import db
from tests.harness.stores import new_store
from tests.trainer.harness import LINEAGE, feed, make_loop
from tests.trainer.session_log import make_log


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder in which a lineage was trained; the tables are those of the migrations."""
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    engine = db.create(new_store(tmp_path / "shelfwise.db"))
    feed(make_loop(tmp_path, engine), make_log(90))
    return tmp_path


@pytest.mark.slow
def test_versions_lineages_and_show(home: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["trainer", "versions", "--lineage", LINEAGE.name, "--json"])
    versions = msgspec.json.decode(listed.stdout)
    assert [version["status"] for version in versions] == ["superseded", "superseded", "live"]
    lineages = runner.invoke(app, ["trainer", "lineages", "--json"])
    assert [lineage["model"] for lineage in msgspec.json.decode(lineages.stdout)] == [LINEAGE.model]
    shown = runner.invoke(app, ["trainer", "show", versions[-1]["artifact"]])
    document = msgspec.json.decode(shown.stdout)
    assert document["golden_difference"] == 0
    assert document["manifest"]["parent"] == versions[-2]["artifact"]
    assert (home / "artifacts" / versions[-1]["artifact"]).is_dir()


def test_tables_for_people(home: Path) -> None:
    runner = CliRunner()
    assert LINEAGE.name in runner.invoke(app, ["trainer", "versions"]).stdout
    assert LINEAGE.profile in runner.invoke(app, ["trainer", "lineages"]).stdout


def test_a_lineage_must_be_a_plain_name() -> None:
    refused = CliRunner().invoke(app, ["trainer", "run", "../elsewhere"])
    assert refused.exit_code == 1
