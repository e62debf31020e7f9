"""Bring a database to the newest schema; commands call this before they touch a store."""

from dataclasses import replace
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, select
from sqlalchemy import func as sql

from stream import db
from stream.db import DatabaseSettings

_FOLDER = Path(__file__).parent
# Any constant will do, as long as every Shelfwise process takes the same one.
_POSTGRES_LOCK = 7_461_335


def upgrade(url: str, settings: DatabaseSettings | None = None) -> None:
    """Create or migrate the tables of the database at `url`; does nothing when they are up to date.

    Guarantees: one transaction; processes that start together wait for each other.

    Raises:
        ConfigError: If the URL cannot be read.
        StoreError: If the database is unreachable or refuses.
    """
    # A migration of a large table runs for as long as it takes.
    engine = db.create(url, replace(settings or DatabaseSettings(), statement_timeout_s=0))
    try:
        with db.transaction(engine) as connection:
            _upgrade(engine, connection)
    finally:
        engine.dispose()


def _upgrade(engine: Engine, connection: Connection) -> None:
    if engine.dialect.name == "postgresql":
        connection.execute(select(sql.pg_advisory_xact_lock(_POSTGRES_LOCK)))
    command.upgrade(configuration(connection), "head")


def configuration(connection: Connection) -> Config:
    """Return Alembic's configuration for an open connection."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes["connection"] = connection
    return config


def differences(connection: Connection) -> list[object]:
    """Return what differs between the database and the tables that the code declares; empty when they agree."""
    return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), db.metadata))
