"""`shelfwise abtest report` and `decide`."""

import json
from pathlib import Path

import jsonschema
import pytest

from abtest.report_schema import json_schema
from tests.deploy.commands.test_abtest import call, fill_home, home

__all__ = ["home"]


@pytest.mark.slow
def test_decide_gives_the_verdict_and_report_prints_and_writes_it(home: Path, tmp_path: Path) -> None:
    fill_home(home, lift=2.0)
    code, out = call("abtest", "report", "first", "--json")
    assert list(jsonschema.Draft202012Validator(json_schema()).iter_errors(json.loads(out))) == []
    assert (code, json.loads(out)["verdict"], json.loads(out)["looks"]) == (0, "keep running", [])
    code, out = call("abtest", "decide", "first")
    assert (code, out.startswith("first: ship\nCVR is higher; lifts outside")) == (0, True)
    page, text = tmp_path / "out" / "report.html", tmp_path / "out" / "report.markdown"
    code, out = call("abtest", "report", "first", "--html", str(page), "--markdown", str(text))
    assert (code, out.startswith("first: ship")) == (0, True)
    assert page.read_text().startswith("<!doctype html>")
    assert "## Lifts against control" in text.read_text()
    assert json.loads(call("abtest", "decide", "first", "--json")[1])["looks"][0]["verdict"] == "ship"


@pytest.mark.slow
def test_a_blocked_check_ends_report_and_decide_with_3(home: Path) -> None:
    fill_home(home, treatment=0.25)
    for command in ("report", "decide"):
        code, out = call("abtest", command, "first", "--json")
        assert (code, json.loads(out)["verdict"]) == (3, "invalid")
