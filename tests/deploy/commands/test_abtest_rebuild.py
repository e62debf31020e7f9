"""`shelfwise abtest rebuild`."""

import json
from pathlib import Path

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from abtest.tables import arm_sums, moment_cuts
from deploy.cli import app
from stream import db
from tests.harness.generated_facts import LAST_TS, append, fill, generate
from tests.harness.stores import new_store


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["abtest", "rebuild", "first", *arguments])
    return result.exit_code, " ".join(result.stdout.split())


def test_stored_sums_that_differ_end_the_command_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = new_store(tmp_path / "store.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELFWISE_DATABASE", url)
    engine = db.create(url)
    sessions, _ = generate(seed=31, num_clients=20)
    fill(engine, sessions, matured_ts=-1)
    assert call() == (0, "no session is mature")
    append(engine, [], matured_ts=LAST_TS)
    assert call()[0] == 0
    with db.transaction(engine) as connection:
        connection.execute(update(arm_sums).where(arm_sums.c.cut == "matured").values(buyers=arm_sums.c.buyers + 7))
        connection.execute(update(moment_cuts).where(moment_cuts.c.cut == "settled").values(currency="USD"))
    code, shown = call()
    assert code == 3
    assert "matured: 20 clients; 2 stored sums differ, by 7 at most settled: 20 clients" in shown
    assert "they were of another currency or other epochs" in shown
    code, shown = call("--json")
    assert (code, [cut["differing"] for cut in json.loads(shown)]) == (0, [0, 0])
    engine.dispose()
