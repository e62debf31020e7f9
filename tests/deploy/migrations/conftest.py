"""An empty database of each kind, and a way to give it another revision."""

from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, String, Table, update

from stream import db
from tests.harness.stores import database_url

HEAD = "0017"
"""Revision that this program needs."""
_versions = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database: once SQLite, once PostgreSQL."""
    return database_url(request.param, tmp_path, request)


def set_revision(url: str, revision: str) -> None:
    """Write another revision into a database, as if another release had upgraded it."""
    engine = db.create(url)
    with db.transaction(engine) as connection:
        connection.execute(update(_versions).values(version_num=revision))
    engine.dispose()
