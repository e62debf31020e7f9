"""Migration of a database to the newest schema, for `shelfwise db upgrade` and the demo."""

from dataclasses import replace

from alembic import command
from sqlalchemy import func as sql
from sqlalchemy import select

from deploy.migrations.revision import Revision, configuration, current_revision
from stream import db
from stream.db_settings import DatabaseSettings
from stream.errors import ConfigError

# An arbitrary number; every process that migrates must use the same one.
_POSTGRES_LOCK = 7_461_335


def upgrade(url: str, settings: DatabaseSettings | None = None) -> Revision:
    """Create or migrate the tables of the database at `url`, and return the revision that it had before.

    Guarantees: one transaction; processes that start together wait for each other, and the later ones change nothing.

    Raises:
        ConfigError: If the URL cannot be read, or the schema is newer than this program.
        StoreError: If the database is unreachable or refuses.
    """
    # The migration of a large table can take long.
    engine = db.create(url, replace(settings or DatabaseSettings(), statement_timeout_s=0))
    try:
        with db.transaction(engine) as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(select(sql.pg_advisory_xact_lock(_POSTGRES_LOCK)))
            before = current_revision(connection)
            if before.state == "newer":
                raise ConfigError(str(before))
            if before.state != "head":
                command.upgrade(configuration(connection), "head")
            return before
    finally:
        engine.dispose()
