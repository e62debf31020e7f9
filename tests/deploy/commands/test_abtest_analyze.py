"""The command `shelfwise abtest analyze`."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from deploy.cli import app

PLAN = """
control = "a"
weights = { a = 1, b = 1 }
[[metric]]
name = "spend"
numerator = "spend"
"""


def files(folder: Path, num_b: int) -> list[str]:
    data, plan = folder / "data.csv", folder / "plan.toml"
    arms = ["a"] * 200 + ["b"] * num_b
    pl.DataFrame({"arm": arms, "spend": [float(number % 7) for number in range(len(arms))]}).write_csv(data)
    plan.write_text(PLAN)
    return ["abtest", "analyze", str(data), "--plan", str(plan)]


def test_a_file_is_analysed_without_a_database(tmp_path: Path) -> None:
    called = files(tmp_path, 210)
    shown = CliRunner().invoke(app, called)
    assert shown.exit_code == 0, shown.output
    assert "clients: a 200, b 210; 0 in several arms or in none are left out" in shown.output
    assert "sample ratio: ok" in shown.output
    found = json.loads(CliRunner().invoke(app, [*called, "--json"]).output)
    (result,) = found["results"]
    assert (result["metric"], result["arm"], result["clients"]) == ("spend", "b", 210)
    assert found["ratio"]["status"] == "ok"


def test_a_ratio_that_is_off_has_an_exit_code(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, files(tmp_path, 400))
    assert shown.exit_code == 3
    assert "sample ratio: blocked" in shown.output


def test_a_wrong_plan_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    called = files(tmp_path, 200)
    (tmp_path / "plan.toml").write_text(PLAN.replace('"a"', '"c"', 1))
    with pytest.raises(Exception, match="expected the control 'c'"):
        CliRunner().invoke(app, called, catch_exceptions=False)


def test_what_cuped_and_missing_clients_do_is_shown(tmp_path: Path) -> None:
    called = files(tmp_path, 200)
    data = pl.read_csv(tmp_path / "data.csv").with_row_index("who")
    past = (pl.col("spend") + pl.col("who") % 3).alias("past")
    data.with_columns(past, pl.when(pl.col("who") > 1).then("who")).write_csv(tmp_path / "data.csv")
    goal = '[[metric]]\nname = "visits"\nnumerator = "who"\n'
    plan = f'client = "who"\ntightest_clients = 400\nadjustment = "benjamini_hochberg"\n{PLAN}before = "past"\n{goal}'
    (tmp_path / "plan.toml").write_text(plan)
    shown = CliRunner().invoke(app, called)
    assert shown.exit_code == 0, shown.output
    assert "2 rows without a client are left out" in shown.output
    for title in ("p (Benjamini-Hochberg)", "variance by CUPED", "lift without", "p (always valid)"):
        assert title in shown.output


def test_names_of_arms_are_text_and_no_markup(tmp_path: Path) -> None:
    called = files(tmp_path, 200)
    for name in ("data.csv", "plan.toml"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace('"a"', '"[/a]"').replace("a,", "[/a],").replace("{ a ", '{ "[/a]" '))
    shown = CliRunner().invoke(app, called)
    assert shown.exit_code == 0, shown.output
    assert "clients: [/a] 200, b 200;" in shown.output
