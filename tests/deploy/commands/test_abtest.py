import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abtest.plan import Plan
from deploy.cli import app
from stream import db
from stream.errors import StoreError
from stream.schemas.identity import client_hash
from tests.harness.generated_facts import fill, generate
from tests.harness.silent_server import silent_server
from tests.harness.stores import new_store

CREATE = ("abtest", "create", "first", "--arm", "control=prm-1", "--arm", "treatment=armmt-1")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SHELFWISE_DATABASE", raising=False)
    new_store(tmp_path / "home" / "shelfwise.db")
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


def test_a_client_is_erased(home: Path) -> None:
    fill_home(home)
    assert "removed: 0 sessions" in call("abtest", "erase", "stranger")[1]
    code, shown = call("abtest", "erase", "c00000", "--json")
    assert code == 0
    assert json.loads(shown)["exposures"] == 1
