"""The one SQLAlchemy `MetaData`, the engine factory and the settings of the store."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from stream.errors import ConfigError, StoreError
from stream.settings import secret

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """Where facts, experiments and versions live.

    Attributes:
        url: SQLAlchemy URL; empty means SQLite under the home folder. `postgresql://` is read as psycopg 3.
    """

    url: str = secret(url=True)


def create(url: str) -> Engine:
    """Return an engine; SQLite runs in WAL mode with foreign keys on and waits 30 s for a lock.

    Raises:
        ConfigError: If the URL cannot be read or names a database other than SQLite and PostgreSQL.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
            raise ConfigError(f"database.url: expected sqlite or postgresql, got '{parsed.drivername}'")
        if parsed.get_backend_name() == "sqlite" and parsed.database not in {None, "", ":memory:"}:
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"database.url: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    return engine


def _configure_sqlite(connection: object, _record: object) -> None:
    # SQLAlchemy's documented recipe: the driver's own BEGIN is switched off so that ours takes the write lock at once.
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Yield a connection whose changes are committed together, or not at all.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        raise StoreError(f"database {engine.url.render_as_string(hide_password=True)}: {error.orig}") from error
