import re
from pathlib import Path

import msgspec
import pytest

from deploy.grafana import generate, model
from deploy.grafana.gateway import Folder, GrafanaError, GrafanaGateway, connect
from deploy.grafana.settings import GrafanaSettings
from stream.errors import ConfigError
from tests.harness.grafana.stub import ROUTES, TOKEN, Fault, StubState, grafana_stub

ROOT = Path(__file__).parents[3]
FOLDER = Folder(uid="shelfwise", title="Shelfwise")
BOARD: model.Json = {"uid": "shelfwise-example", "title": "Example", "schemaVersion": 42, "panels": []}


def gateway(url: str, slept: list[float] | None = None, **settings: object) -> GrafanaGateway:
    sleep = (slept if slept is not None else []).append
    return GrafanaGateway(msgspec.convert({"url": url, **settings}, GrafanaSettings), TOKEN, sleep=sleep)


def every_call(target: GrafanaGateway) -> None:
    target.health()
    target.datasource_types()
    target.ensure_folder(FOLDER)
    target.ensure_folder(Folder(uid="shelfwise", title="Other"))
    target.ensure_folder(FOLDER)
    target.put_dashboard(BOARD, "shelfwise", "a test")


def test_the_calls_made_are_the_committed_list() -> None:
    state = StubState()
    with grafana_stub(state) as url:
        every_call(gateway(url))
    committed = msgspec.json.decode((ROOT / "deploy/grafana/calls.json").read_bytes(), type=list[dict[str, str]])
    listed = [(call["method"], call["path"]) for call in committed]
    assert set(state.calls) == set(listed)
    assert len(listed) == len(set(listed))


def test_openapi_and_stub_know_the_committed_calls_and_no_others() -> None:
    committed = msgspec.json.decode((ROOT / "deploy/grafana/calls.json").read_bytes(), type=list[dict[str, str]])
    listed = {(call["method"], call["path"]) for call in committed}
    openapi = msgspec.yaml.decode((ROOT / "tests/grafana_contract/openapi.yaml").read_bytes(), type=dict[str, object])
    paths = msgspec.convert(openapi["paths"], dict[str, dict[str, object]])
    assert {(verb.upper(), path) for path, verbs in paths.items() for verb in verbs if verb != "parameters"} == listed
    assert set(ROUTES) == listed


def test_grafana_api_is_imported_by_the_gateway_alone() -> None:
    importers = [
        path.relative_to(ROOT).as_posix()
        for package in ("stream", "abtest", "trainer", "serving", "deploy")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(?:from|import) grafana_api", path.read_text(), re.MULTILINE)
    ]
    assert importers == ["deploy/grafana/gateway.py"]


def test_what_is_put_is_held_and_a_second_put_changes_nothing() -> None:
    state = StubState()
    with grafana_stub(state) as url:
        target = gateway(url)
        for dashboard in generate.DASHBOARDS:
            target.ensure_folder(FOLDER)
            target.put_dashboard(model.render(dashboard), "shelfwise", "first")
            target.put_dashboard(model.render(dashboard), "shelfwise", "second")
        assert not target.ensure_folder(FOLDER)
        stored = target.dashboard("shelfwise-loop")
    assert sorted(state.dashboards) == ["shelfwise-experiment", "shelfwise-loop"]
    assert stored is not None
    assert stored.folder_uid == "shelfwise"
    assert "id" not in stored.model


def test_absent_things_are_none() -> None:
    with grafana_stub(StubState()) as url:
        assert gateway(url).dashboard("nothing") is None
        assert gateway(url).folder("nothing") is None


def test_a_path_prefix_and_odd_uids_reach_the_right_place() -> None:
    state = StubState(prefix="/tools/grafana", folders={"a b/c": "Odd"})
    with grafana_stub(state) as url:
        assert gateway(url + "/").folder("a b/c") == Folder(uid="a b/c", title="Odd")


def test_busy_servers_are_asked_again_with_growing_waits() -> None:
    slept: list[float] = []
    state = StubState(faults=[Fault(503, b"<html>busy</html>"), Fault(429, b'{"message": "slow down"}'), Fault(502)])
    with grafana_stub(state) as url:
        assert gateway(url, slept).health().version == "13.0.1"
    assert slept == [0.5, 1.0, 2.0]


def test_waits_and_tries_are_bounded() -> None:
    slept: list[float] = []
    state = StubState(faults=[Fault(503)] * 20)
    with grafana_stub(state) as url, pytest.raises(GrafanaError, match="HTTP 503"):
        gateway(url, slept, attempts=8).health()
    assert slept == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert len(state.calls) == 8


def test_a_lost_answer_to_a_write_does_no_harm() -> None:
    state = StubState(folders={"shelfwise": "Shelfwise"}, faults=[Fault(504, b"gateway time-out", applied=True)])
    with grafana_stub(state) as url:
        gateway(url).put_dashboard(BOARD, "shelfwise", "a test")
    assert state.calls.count(("POST", "/dashboards/db")) == 2
    assert len(state.dashboards) == 1


def test_a_folder_created_by_a_lost_answer_is_found() -> None:
    missing = Fault(404, b'{"message": "folder not found"}')
    state = StubState(faults=[missing, Fault(504, applied=True)])
    with grafana_stub(state) as url:
        assert gateway(url).ensure_folder(FOLDER)
    assert state.folders == {"shelfwise": "Shelfwise"}


def test_an_empty_answer_is_no_error() -> None:
    state = StubState(faults=[Fault(204, applied=True)])
    with grafana_stub(state) as url:
        gateway(url).put_dashboard(BOARD, "shelfwise", "a test")
    assert "shelfwise-example" in state.dashboards


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(500, b"plain text with a message in it"), "HTTP 500.*plain text"),
        (Fault(401, b'{"message": "Unauthorized"}'), "HTTP 401.*token"),
        (Fault(403, b'{"message": "no"}'), "HTTP 403.*Editor"),
        (Fault(200, b"<html>sign in</html>"), "HTTP 200.*sign in"),
        (Fault(302, b"", (("Location", "/login"),)), "HTTP 302.*redirect"),
        (Fault(200, b'{"database": "ok"}'), "names no version"),
        (Fault(200, b"[]"), "expected an object"),
    ],
)
def test_refusals_become_one_error_of_ours(fault: Fault, expected: str) -> None:
    state = StubState(faults=[fault])
    with grafana_stub(state) as url, pytest.raises(GrafanaError, match=expected):
        gateway(url).health()
    assert len(state.calls) == 1


def test_an_unreachable_server_is_named() -> None:
    slept: list[float] = []
    with grafana_stub(StubState()) as url:
        pass
    with pytest.raises(GrafanaError, match=re.escape(url)):
        gateway(url, slept, attempts=2).health()
    assert slept == [0.5]


def test_writes_that_do_not_stay_are_noticed() -> None:
    with grafana_stub(StubState(forget_writes=True)) as url, pytest.raises(GrafanaError, match="does not exist"):
        gateway(url).put_dashboard(BOARD, "shelfwise", "a test")


def test_a_dashboard_read_back_different_is_noticed() -> None:
    state = StubState(dashboards={"shelfwise-example": {**BOARD, "title": "Old"}})
    state.dashboard_folders["shelfwise-example"] = "shelfwise"
    state.forget_writes = True
    with (
        grafana_stub(state) as url,
        pytest.raises(GrafanaError, match=r"1 differences: /title: ours 'Example', theirs 'Old'"),
    ):
        gateway(url).put_dashboard(BOARD, "shelfwise", "a test")


def test_an_old_grafana_is_refused() -> None:
    with (
        grafana_stub(StubState(version="10.4.3")) as url,
        pytest.raises(GrafanaError, match=r"11 or newer, found 10\.4\.3"),
    ):
        connect(GrafanaSettings(url=url, token=TOKEN), sleep=lambda _: None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://grafana.example.org", "unencrypted"),
        ("http://10.0.0.1:3000", "unencrypted"),
        ("ftp://127.0.0.1", "expected https"),
        ("grafana:3000", "expected https"),
        ("https://user:secret@grafana.example.org", "no user"),
    ],
)
def test_unusable_addresses_are_refused(url: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        gateway(url)


@pytest.mark.parametrize(
    "url", ["http://localhost:3000", "http://[::1]:3000", "http://127.0.0.9", "https://example.org/x"]
)
def test_usable_addresses_are_taken(url: str) -> None:
    assert isinstance(gateway(url), GrafanaGateway)


def test_a_connection_needs_a_token() -> None:
    assert GrafanaSettings(token="direct").required_token() == "direct"
    with pytest.raises(ConfigError, match=r"grafana\.token_file"):
        GrafanaSettings().required_token()


@pytest.mark.parametrize("field", ["timeout_s", "attempts"])
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({field: 0}, GrafanaSettings)
