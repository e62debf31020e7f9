import logging
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from deploy.configuration import Context, load
from deploy.migrations import upgrade
from deploy.migrations.revision import configuration, open_database, revision
from stream import db
from stream.errors import ConfigError, StoreError
from tests.deploy.migrations.conftest import HEAD, set_revision
from tests.harness.silent_server import silent_server


@pytest.fixture
def context(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deploy.configuration.environment", lambda: {"SHELFWISE_DATABASE": url})
    return load()


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this program need a revision after those that exist."""
    monkeypatch.setattr(ScriptDirectory, "get_current_head", lambda _scripts: "9998")


def test_a_database_at_head_is_opened(url: str, context: Context) -> None:
    upgrade.upgrade(url)
    engine = open_database(context)
    assert revision(engine).state == "head"
    engine.dispose()


def test_a_database_without_schema_is_refused_with_the_command_that_makes_it(url: str, context: Context) -> None:
    with pytest.raises(ConfigError, match=rf"no schema, revision {HEAD} is needed; run: shelfwise db upgrade$"):
        open_database(context)


def test_a_newer_schema_is_refused(url: str, context: Context) -> None:
    upgrade.upgrade(url)
    set_revision(url, "9999")
    with pytest.raises(ConfigError, match=rf"schema revision 9999 is unknown to this release, which needs {HEAD}"):
        open_database(context)


@pytest.mark.usefixtures("grown")
def test_an_older_schema_is_refused_with_the_command_that_upgrades_it(url: str, context: Context) -> None:
    _upgrade_to_the_first(url)
    with pytest.raises(ConfigError, match=r"schema revision 0001, 9998 is needed; run: shelfwise db upgrade$"):
        open_database(context)


def _upgrade_to_the_first(url: str) -> None:
    engine = db.create(url)
    with db.transaction(engine) as connection:
        command.upgrade(configuration(connection), "0001")
    engine.dispose()


def test_asking_for_the_revision_creates_no_file(tmp_path: Path) -> None:
    engine = db.create(f"sqlite:///{tmp_path / 'home' / 'store.db'}")
    assert revision(engine).state == "absent"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_unreachable_database_is_opened_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with silent_server() as port:
        variables = {
            "SHELFWISE_DATABASE": f"postgresql://shelfwise@127.0.0.1:{port}/shelfwise",
            "SHELFWISE_DATABASE__CONNECT_TIMEOUT_S": "1",
        }
        monkeypatch.setattr("deploy.configuration.environment", lambda: variables)
        with pytest.raises(StoreError, match="timeout expired"):
            open_database(load())
        with caplog.at_level(logging.WARNING):
            open_database(load(), may_be_unreachable=True).dispose()
    assert "the schema is not checked" in caplog.text
