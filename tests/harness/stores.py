"""Databases of both kinds, empty or with the newest schema."""

import tempfile
from collections.abc import Iterator
from functools import cache
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


def store_url(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of a new database of this kind with the newest schema and no rows."""
    if kind == "sqlite":
        return new_store(folder / "store.db")
    return new_postgres_store(request.getfixturevalue("postgres_url"))


def new_store(path: Path) -> str:
    """Create a SQLite database with the newest schema at `path` and return its URL.

    It is a copy of one that this process migrated once: the migrations take a second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(_migrated_file())
    return f"sqlite:///{path}"


def new_postgres_store(server_url: str) -> str:
    """Create a database with the newest schema on this server, as `new_store` does, and return its URL."""
    return new_database(server_url, template=_template(server_url))


@cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory(prefix="shelfwise-schema-") as folder:
        path = Path(folder) / "store.db"
        upgrade.upgrade(f"sqlite:///{path}")
        return path.read_bytes()


@cache
def _template(server_url: str) -> str:
    url = new_database(server_url)
    upgrade.upgrade(url)
    return url.rpartition("/")[2]


def complete_schema(url: str) -> None:
    """Bring a database to the newest schema; tables that a test created from the metadata count as current."""
    engine = db.create(url)
    with db.transaction(engine) as connection:
        names = set(inspect(connection).get_table_names())
        if names and "alembic_version" not in names:
            command.stamp(configuration(connection), "head")
    engine.dispose()
    upgrade.upgrade(url)


BOTH = ["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgres, pytest.mark.no_cover])]
"""Kinds of a store, as parameters: tests on PostgreSQL run the lines again that those on SQLite have run."""


@pytest.fixture(params=BOTH)
def store_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a database with the newest schema and no rows: once SQLite, once PostgreSQL."""
    engine = db.create(store_url(request.param, tmp_path, request))
    yield engine
    engine.dispose()
