"""The gateway against a mock server that checks every request against our OpenAPI subset of Grafana."""

import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from deploy.grafana import model
from deploy.grafana.gateway import Folder, GrafanaError, GrafanaGateway
from deploy.grafana.settings import GrafanaSettings
from tests.harness.node import node_folder

pytestmark = pytest.mark.system

BOARD: model.Json = {"uid": "shelfwise-example", "title": "Example", "schemaVersion": 42, "panels": []}
START_TIMEOUT_S = 60.0
POLL_S = 0.2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server without the prefix /api, which prism leaves out; the gateway's base path is given as a prefix."""
    folder = node_folder("grafana_contract")
    port = free_port()
    log = tmp_path_factory.mktemp("prism") / "log"
    program = folder / "node_modules/@stoplight/prism-cli/dist/index.js"
    text = (folder / "openapi.yaml").read_text()
    served = folder / "served.yaml"
    # Prism serves paths without the base path of `servers`.
    served.write_text(text.replace("\n  /", "\n  /api/"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["node", str(program), "mock", "--errors", "--host", "127.0.0.1", "--port", str(port), str(served)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(int(START_TIMEOUT_S / POLL_S)):
            if answers(f"{url}/api/health"):
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(POLL_S)
        else:
            pytest.fail(log.read_text())
        yield url
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


def gateway(url: str) -> GrafanaGateway:
    return GrafanaGateway(GrafanaSettings(url=url, attempts=1), "token", sleep=lambda _: None)


def test_reads_match_the_description(prism: str) -> None:
    target = gateway(prism)
    assert target.health().version == "13.0.1"
    assert target.datasource_types() == ["grafana-postgresql-datasource", "prometheus"]
    assert target.folder("shelfwise") == Folder(uid="shelfwise", title="Shelfwise")
    stored = target.dashboard("shelfwise-example")
    assert stored is not None
    assert stored.folder_uid == "shelfwise"


def test_writes_match_the_description(prism: str) -> None:
    gateway(prism).put_dashboard(BOARD, "shelfwise", "a test")


def test_folder_writes_match_the_description(prism: str) -> None:
    """The mock always answers with its example, so reading back finds another title: the write itself was accepted."""
    with pytest.raises(GrafanaError, match="read back Folder"):
        gateway(prism).ensure_folder(Folder(uid="shelfwise", title="Other"))
    gateway(prism)._create_folder(Folder(uid="shelfwise", title="Other"))


def test_the_mock_refuses_what_the_description_forbids(prism: str) -> None:
    with pytest.raises(GrafanaError, match=r"HTTP 4(00|22)"):
        gateway(prism).put_dashboard({**BOARD, "schemaVersion": 41}, "shelfwise", "a test")
    with pytest.raises(GrafanaError, match=r"HTTP 4(00|22)"):
        gateway(prism).folder("no such uid")
    request = urllib.request.Request(f"{prism}/api/datasources")
    with pytest.raises(urllib.error.HTTPError, match="401") as caught:
        urllib.request.urlopen(request, timeout=10)
    caught.value.close()
