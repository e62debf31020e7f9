import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from deploy.cli import app
from deploy.grafana import generate
from stream.errors import ConfigError
from tests.harness.grafana.stub import TOKEN, StubState, grafana_stub

BOARDS = ["shelfwise-loop", "shelfwise-experiment"]


@pytest.fixture
def state() -> StubState:
    return StubState()


@pytest.fixture
def url(state: StubState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    monkeypatch.setenv("SHELFWISE_GRAFANA__TOKEN_FILE", str(token))
    with grafana_stub(state) as address:
        yield address


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["grafana", *arguments])


def actions(result: Result) -> dict[str, str]:
    return {change["uid"]: change["action"] for change in json.loads(result.stdout)}


def test_diff_tells_what_is_to_be_done_and_writes_nothing(url: str, state: StubState) -> None:
    result = call("diff", "--url", url, "--json")
    assert result.exit_code == 3
    assert actions(result) == dict.fromkeys(["shelfwise", *BOARDS], "create")
    assert {method for method, _ in state.calls} == {"GET"}


def test_apply_then_diff_is_clean_and_a_second_apply_writes_nothing(url: str, state: StubState) -> None:
    assert call("apply", "--url", url).exit_code == 0
    assert sorted(state.dashboards) == sorted(BOARDS)
    assert state.folders == {"shelfwise": "Shelfwise"}
    assert set(state.dashboard_folders.values()) == {"shelfwise"}
    state.calls.clear()
    assert call("diff", "--url", url).exit_code == 0
    again = call("apply", "--url", url, "--json")
    assert actions(again) == dict.fromkeys(["shelfwise", *BOARDS], "none")
    assert {method for method, _ in state.calls} == {"GET"}


def test_a_dry_run_writes_nothing(url: str, state: StubState) -> None:
    result = call("apply", "--url", url, "--dry-run", "--json")
    assert result.exit_code == 0
    assert actions(result)["shelfwise-loop"] == "create"
    assert state.dashboards == {}
    assert state.folders == {}


def test_an_edited_dashboard_is_shown_and_brought_back(url: str, state: StubState) -> None:
    call("apply", "--url", url)
    state.dashboards["shelfwise-loop"]["title"] = "Edited"
    state.dashboard_folders["shelfwise-experiment"] = "elsewhere"
    result = call("diff", "--url", url, "--json")
    details = {change["uid"]: change["details"] for change in json.loads(result.stdout)}
    assert details["shelfwise-loop"] == ["/title: ours 'Shelfwise: the loop', theirs 'Edited'"]
    assert details["shelfwise-experiment"] == ["/folder: ours 'shelfwise', theirs 'elsewhere'"]
    assert call("apply", "--url", url).exit_code == 0
    assert call("diff", "--url", url).exit_code == 0


def test_provisioned_dashboards_are_left_alone(url: str, state: StubState) -> None:
    call("apply", "--url", url)
    state.dashboards["shelfwise-loop"]["title"] = "From a file"
    state.provisioned.add("shelfwise-loop")
    state.calls.clear()
    result = call("apply", "--url", url)
    assert result.exit_code == 1
    assert "provisioned" in result.stderr
    assert {method for method, _ in state.calls} == {"GET"}


def test_a_missing_data_source_is_a_warning(url: str, state: StubState) -> None:
    state.datasources = ["prometheus"]
    result = call("apply", "--url", url)
    assert result.exit_code == 0
    assert "no data source of type grafana-postgresql-datasource" in result.stderr.replace("\n", " ")


def test_export_gives_back_what_was_applied(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("export", "--url", url, "--out", str(out)).exit_code == 1
    call("apply", "--url", url)
    dry = call("export", "--url", url, "--out", str(out), "--dry-run", "--json")
    assert dry.exit_code == 0
    assert list(out.iterdir()) == []
    result = call("export", "--url", url, "--out", str(out), "--json")
    assert sorted(json.loads(result.stdout)) == sorted(BOARDS)
    for uid in BOARDS:
        exported = msgspec.json.decode((out / f"{uid}.json").read_bytes(), type=dict[str, object])
        committed = msgspec.json.decode(generate.rendered()[f"{uid}.json"], type=dict[str, object])
        assert {key: exported[key] for key in committed} == committed


def test_generate_names_stale_files_and_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("generate", "--check").exit_code == 0
    generate.write(tmp_path)
    path = tmp_path / "shelfwise-loop.json"
    path.write_bytes(path.read_bytes().replace(b'"editable": false', b'"editable": true'))
    for function in (generate.drift, generate.write):
        monkeypatch.setattr(function, "__defaults__", (tmp_path,))
    stale = call("generate", "--check")
    assert (stale.exit_code, "differs from its builder" in stale.stderr) == (1, True)
    assert call("generate").exit_code == 0
    assert call("generate", "--check").exit_code == 0


def test_without_a_token_nothing_is_asked(state: StubState) -> None:
    with grafana_stub(state) as url:
        result = call("diff", "--url", url)
    assert isinstance(result.exception, ConfigError)
    assert state.calls == []
