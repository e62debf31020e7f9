from pathlib import Path

import pytest
from typer.testing import CliRunner

from abtest.plan import Plan
from deploy.cli import app
from stream import db
from tests.harness.generated_facts import fill, generate
from tests.harness.stores import new_store


def test_one_round_of_the_watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path))
    monkeypatch.delenv("SHELFWISE_DATABASE", raising=False)
    url = new_store(tmp_path / "shelfwise.db")
    assert CliRunner().invoke(app, ["abtest", "watch", "--once"]).stdout == ""
    engine = db.create(url)
    fill(engine, generate(seed=31, num_clients=200)[0], plan=Plan(min_buyers=20))
    engine.dispose()
    done = CliRunner().invoke(app, ["abtest", "watch", "--once"])
    assert (done.exit_code, done.stdout) == (0, "first: keep running\n")
