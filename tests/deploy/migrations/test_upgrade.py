from importlib.resources import files
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, Table, func, inspect, select

from deploy.migrations import upgrade
from stream import db
from tests.harness.postgres import new_database

VIEWS = {"v_lift_latest", "v_lift_timeseries", "v_health", "v_traffic", "v_versions"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return new_database(request.getfixturevalue("postgres_url"))


def test_empty_to_head_leaves_no_difference(url: str) -> None:
    upgrade.upgrade(url)
    upgrade.upgrade(url)
    engine = db.create(url)
    with engine.connect() as connection:
        assert upgrade.differences(connection) == []
        assert set(inspect(connection).get_view_names()) == VIEWS
        for name in sorted(VIEWS):
            view = Table(name, MetaData(), autoload_with=connection)
            assert connection.execute(select(func.count()).select_from(view)).scalar_one() == 0
    engine.dispose()


def test_difference_is_seen(url: str) -> None:
    engine = db.create(url)
    with engine.begin() as connection:
        assert upgrade.differences(connection)
    engine.dispose()


def test_one_head() -> None:
    engine = db.create("sqlite://")
    with engine.connect() as connection:
        assert len(ScriptDirectory.from_config(upgrade.configuration(connection)).get_heads()) == 1
    engine.dispose()


def test_migrations_are_package_files() -> None:
    folder = files("deploy") / "migrations"
    assert (folder / "env.py").is_file()
    assert (folder / "script.py.mako").is_file()
    assert any(entry.name.startswith("0001") for entry in (folder / "versions").iterdir())
