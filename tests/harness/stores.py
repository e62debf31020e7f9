"""Databases of both kinds with the newest schema."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, inspect

from deploy.migrations import upgrade
from deploy.migrations.revision import configuration
from stream import db
from tests.harness.postgres import new_database


def database_url(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database of this kind."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'store.db'}"
    return new_database(request.getfixturevalue("postgres_url"))


def complete_schema(url: str) -> None:
    """Bring a database to the newest schema; tables that a test created from the metadata count as current."""
    engine = db.create(url)
    with db.transaction(engine) as connection:
        names = set(inspect(connection).get_table_names())
        if names and "alembic_version" not in names:
            command.stamp(configuration(connection), "head")
    engine.dispose()
    upgrade.upgrade(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty database with all tables: once SQLite, once PostgreSQL."""
    url = database_url(request.param, tmp_path, request)
    upgrade.upgrade(url)
    engine = db.create(url)
    yield engine
    engine.dispose()
