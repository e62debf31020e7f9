"""Databases of both kinds with the newest schema."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from deploy.migrations import upgrade
from stream import db
from tests.harness.postgres import new_database


def database_url(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty database of this kind."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'store.db'}"
    return new_database(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty database with all tables: once SQLite, once PostgreSQL."""
    url = database_url(request.param, tmp_path, request)
    upgrade.upgrade(url)
    engine = db.create(url)
    yield engine
    engine.dispose()
