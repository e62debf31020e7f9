import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from stream.errors import ConfigError
from tests.deploy.migrations.conftest import HEAD, set_revision


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHELFWISE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SHELFWISE_DATABASE", raising=False)
    return f"sqlite:///{tmp_path / 'home' / 'shelfwise.db'}"


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_upgrade_current_check(url: str) -> None:
    code, out = call("db", "check")
    assert (code, "no schema" in out, "run: shelfwise db upgrade" in out) == (3, True, True)
    code, out = call("db", "upgrade")
    assert code == 0
    assert f"database {url}: upgraded from no schema to revision {HEAD}" in out
    assert "nothing to do" in call("db", "upgrade")[1]
    assert json.loads(call("db", "upgrade", "--json")[1]) == {"database": url, "from": HEAD, "to": HEAD}
    assert call("db", "check")[0] == 0
    assert json.loads(call("db", "current", "--json")[1])["state"] == "head"


def test_a_newer_schema(url: str) -> None:
    call("db", "upgrade")
    set_revision(url, "9999")
    code, out = call("db", "current")
    assert (code, f"9999 is unknown to this release, which needs {HEAD}" in out) == (0, True)
    assert call("db", "check", "--json")[0] == 3
    with pytest.raises(ConfigError, match="9999 is unknown"):
        call("db", "upgrade")


@pytest.mark.parametrize(
    "arguments",
    [
        ("abtest", "list"),
        ("abtest", "report", "first"),
        ("abtest", "sink"),
        ("trainer", "versions"),
        ("trainer", "run", "prm"),
        ("serving", "run", "--port", "0"),
    ],
)
def test_other_commands_refuse_another_schema_and_change_nothing(
    url: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFWISE_BROKER", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=f"no schema, revision {HEAD} is needed; run: shelfwise db upgrade"):
        call(*arguments)
    assert not Path(url.removeprefix("sqlite:///")).exists()
