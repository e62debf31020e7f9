import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from abtest.plan import Plan
from abtest.report_schema import json_schema
from deploy.cli import app
from deploy.migrations import upgrade
from stream import db
from stream.errors import ConfigError, StoreError
from stream.schemas.identity import client_hash
from tests.harness.generated_facts import fill, generate
from tests.harness.silent_server import silent_server

CREATE = ("abtest", "create", "first", "--arm", "control=prm-1", "--arm", "treatment=armmt-1")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SHELFWISE_DATABASE", raising=False)
    upgrade.upgrade(f"sqlite:///{tmp_path / 'home' / 'shelfwise.db'}")
    return tmp_path / "home"


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def fill_home(home: Path, **options: float) -> None:
    url = f"sqlite:///{home / 'shelfwise.db'}"
    engine = db.create(url)
    fill(engine, generate(seed=31, num_clients=200, **options)[0], plan=Plan(min_buyers=20))
    engine.dispose()


@pytest.mark.slow
def test_create_list_assign_stop(home: Path) -> None:
    code, out = call(*CREATE, "--share", "0.5", "--salt", "ranker-2026q1", "--json")
    made = json.loads(out)
    assert (code, made["buckets"], made["salt"]) == (0, {"control": 2_500, "treatment": 2_500}, "ranker-2026q1")
    code, out = call("abtest", "assign", "c-1", "--json")
    assert (code, json.loads(out)["bucket"]) == (0, 6198)
    key = "k" * 32
    hashed = client_hash("c-1", key.encode())
    by_hash = json.loads(call("abtest", "assign", hashed, "--json")[1])["bucket"]
    code, out = call("--set", f"privacy.client_id_key={key}", "abtest", "assign", "c-1", "--json")
    assert (code, json.loads(out)["bucket"]) == (0, by_hash)
    assert by_hash != 6198
    assert call("abtest", "stop", "first", "--decision", "kept")[0] == 0
    code, out = call("abtest", "list", "--json")
    (listed,) = json.loads(out)
    assert (listed["key"], listed["status"], listed["decision"]) == ("first", "stopped", "kept")
    assert call("abtest", "assign", "c-1")[0] == 1


def test_fixed_policy_arm(home: Path) -> None:
    code, out = call(
        "abtest",
        "create",
        "first",
        "--arm",
        "as_is=policy:incoming_order",
        "--arm",
        "a=prm-1",
        "--control",
        "as_is",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["arms"][0] == {
        "name": "as_is",
        "lineage": None,
        "policy": "incoming_order",
        "is_control": True,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arm", "control"), "--arm control: expected"),
        (("--arm", "control=a"), "two or more"),
        (("--arm", "a=x", "--arm", "b=y"), "exactly one control"),
        (("--arm", "control=a", "--arm", "b=y", "--primary", "revenue"), "= 'revenue': expected one of"),
        (("--arm", "control=a", "--arm", "b=y", "--layer", "price"), "--layer price: the facts name"),
        (("--arm", "control=a", "--arm", "b=y", "--cuped", "0.5"), "cuped_days = 0.5: expected more"),
        (("--arm", "control=a", "--arm", "b=y", "--looks", "7"), "several looks need a planned number"),
    ],
)
def test_refused_values_are_named(home: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call("abtest", "create", "first", *arguments)


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


def test_money_after_refunds_can_be_the_primary(home: Path) -> None:
    assert call(*CREATE, "--primary", "net_gmv", "--looks", "7", "--days", "14")[0] == 0
    out = call("abtest", "list", "--json")[1]
    plan = json.loads(out)[0]["plan"]
    assert (plan["goals"], plan["days"], plan["min_buyers"]) == (["ctr", "cvr", "gmv", "net_gmv"], 14.0, 100)
    assert (plan["attribution_s"], plan["refund_s"]) == (86_400, 604_800)


@pytest.mark.slow
def test_a_database_that_never_answers_is_an_error_within_the_time_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_DATABASE__CONNECT_TIMEOUT_S", "1")
    with silent_server() as port:
        monkeypatch.setenv("SHELFWISE_DATABASE", f"postgresql://shelfwise:secret@127.0.0.1:{port}/shelfwise")
        with pytest.raises(StoreError, match=r"shelfwise:\*\*\*@127.* connection timeout expired"):
            call("abtest", "list")


@pytest.mark.slow
def test_validate_prints_the_errors_of_runs_without_an_effect(home: Path) -> None:
    code, out = call("abtest", "validate", "--runs", "5", "--looks", "1", "--looks", "3", "--json")
    found = json.loads(out)
    assert (code, [(entry["looks"], entry["runs"]) for entry in found]) == (0, [(1, 5), (3, 5)])
    assert "decided" in call("abtest", "validate", "--runs", "2", "--looks", "1")[1]


@pytest.mark.slow
def test_a_plan_from_history(home: Path) -> None:
    fill_home(home)
    code, out = call("abtest", "power", "--mde", "0.5", "--days", "1", "--json")
    found = json.loads(out)
    assert (code, found["history"]["clients"]) == (0, 200)
    (plan,) = found["plans"]
    assert plan["days"] == pytest.approx(plan["clients"] / 200)
    assert call("abtest", "stop", "first")[0] == 0
    arms = ("--arm", "control=prm-1", "--arm", "treatment=armmt-1")
    code, out = call("abtest", "create", "second", *arms, "--mde", "0.5", "--from-history", "1", "--json")
    assert (code, json.loads(out)["clients"]) == (0, plan["clients"])
    with pytest.raises(ConfigError, match="expected --mde, and neither"):
        call("abtest", "create", "third", *arms, "--from-history", "1")


def test_a_client_is_erased(home: Path) -> None:
    fill_home(home)
    assert "removed: 0 sessions" in call("abtest", "erase", "stranger")[1]
    code, shown = call("abtest", "erase", "c00000", "--json")
    assert code == 0
    assert json.loads(shown)["exposures"] == 1
