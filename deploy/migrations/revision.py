"""The revision of a database's schema, compared with the one that this program needs.

Commands open the store with `open_database`, so that none works on a schema that it was not written for. Only
`shelfwise db upgrade` and the demo change a schema.

Source: docs/operations.md.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Index

from deploy.configuration import Context
from stream import db
from stream.db_settings import DatabaseSettings
from stream.errors import ConfigError, StoreError

FOLDER = Path(__file__).parent
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """Schema revision of a database beside that of this program.

    Attributes:
        database: URL of the database without its password.
        current: Revision of the database; None if it has no schema.
        head: Revision that this program needs.
        state: `newer` if this program does not know the revision.
    """

    database: str
    current: str | None
    head: str
    state: Literal["absent", "older", "head", "newer"]

    def __str__(self) -> str:
        where = f"database {self.database}"
        if self.state == "absent":
            return f"{where}: no schema, revision {self.head} is needed; run: shelfwise db upgrade"
        if self.state == "older":
            return f"{where}: schema revision {self.current}, {self.head} is needed; run: shelfwise db upgrade"
        if self.state == "newer":
            return (
                f"{where}: schema revision {self.current} is unknown to this release, which needs {self.head}; "
                "install the release that upgraded the database"
            )
        return f"{where}: schema revision {self.current}"


def of_dialect(connection: Connection) -> Callable[..., bool]:
    """Return Alembic's `include_object`: whether a declared index is one of this dialect."""

    def include(entity: object, *_details: object) -> bool:
        return not isinstance(entity, Index) or db.is_of(connection.dialect.name, entity)

    return include


def revision(engine: Engine) -> Revision:
    """Return the revision of a database, without changing it.

    Raises:
        StoreError: If the database is unreachable.
    """
    file = engine.url.database
    # A connection would create the file.
    if engine.dialect.name == "sqlite" and file not in {None, "", ":memory:"} and not Path(str(file)).exists():
        return _compared(engine, None)
    with db.read(engine) as connection:
        return current_revision(connection)


def current_revision(connection: Connection) -> Revision:
    """Return the revision of the database of an open connection."""
    return _compared(connection.engine, MigrationContext.configure(connection).get_current_revision())


def _compared(engine: Engine, current: str | None) -> Revision:
    scripts = ScriptDirectory(str(FOLDER))
    head = scripts.get_current_head()
    assert head is not None, f"no migrations in {FOLDER}"
    known = {script.revision for script in scripts.walk_revisions()}
    state: Literal["absent", "older", "head", "newer"] = "newer"
    if current is None:
        state = "absent"
    elif current == head:
        state = "head"
    elif current in known:
        state = "older"
    return Revision(database=engine.url.render_as_string(hide_password=True), current=current, head=head, state=state)


def open_database(context: Context, *, may_be_unreachable: bool = False, at_most_s: int | None = None) -> Engine:
    """Return an engine on the configured database, whose schema is the one that this program needs.

    Args:
        context: Settings of the command.
        may_be_unreachable: Return the engine also if the database does not answer now; the schema is unchecked then.
        at_most_s: Bound of each time-out of the settings, for a program that can go on without an answer.

    Raises:
        ConfigError: If the schema is absent, older or newer, or the URL cannot be read.
        StoreError: If the database is unreachable.
    """
    limits = context.settings.get("database", DatabaseSettings)
    engine = db.create(context.database_url(), limits if at_most_s is None else limits.at_most(at_most_s))
    try:
        found = revision(engine)
    except StoreError as error:
        if not may_be_unreachable:
            engine.dispose()
            raise
        _log.warning("the schema is not checked: %s", error)
        return engine
    if found.state != "head":
        engine.dispose()
        raise ConfigError(str(found))
    return engine


def configuration(connection: Connection) -> Config:
    """Return Alembic's configuration for an open connection."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    return config
