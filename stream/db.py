"""The one SQLAlchemy `MetaData`, the engine factory, and transactions for reading and for writing.

Guarantees: a database that does not answer, a lock that is not released and a statement that does not end become a
`StoreError` within the time-outs of `DatabaseSettings`. A read never waits for a writer and never delays one.

Source: docs/operations.md.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Index, MetaData, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from stream.db_settings import DatabaseSettings
from stream.errors import ConfigError, StoreError
from stream.files import PRIVATE_FILE

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

PAUSE_S = 0.03
"""Seconds between two of many transactions, so that other writers come in. One that waits for SQLite's lock asks again
after at most 25 ms while it has waited for less than 100 ms."""

_DIALECT = "dialect"
_FOR_READING = "shelfwise_for_reading"
# A peer that has vanished is noticed after 30 + 3 * 10 s without traffic, unacknowledged data after 60 s.
_KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def create(url: str, settings: DatabaseSettings | None = None) -> Engine:
    """Return an engine; no connection is opened yet.

    Args:
        url: SQLAlchemy URL of a SQLite or PostgreSQL database.
        settings: Time-outs; the URL in it is not read.

    Guarantees: SQLite runs in WAL mode with foreign keys on, in a file that only its owner may open if it is new.

    Raises:
        ConfigError: If the URL cannot be read or names a database other than SQLite and PostgreSQL.
    """
    limits = settings or DatabaseSettings()
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        backend = parsed.get_backend_name()
        if backend not in {"sqlite", "postgresql"}:
            raise ConfigError(f"database.url: expected sqlite or postgresql, got '{parsed.drivername}'")
        return _sqlite(parsed, limits) if backend == "sqlite" else _postgresql(parsed, limits)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"database.url: {error}") from error
    except ValueError:
        # The text may be a password that stands in the place of the port.
        raise ConfigError("database.url: expected a number as the port") from None


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Yield a connection whose changes are committed together, or not at all.

    Guarantees: SQLite gives the write lock at the start, so that no statement fails in the middle for want of it.

    Raises:
        StoreError: If the database is unreachable or refused.
    """
    with _store_errors(engine), engine.begin() as connection:
        yield connection


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Yield a connection for queries, which all see one state of the database; a write through it is refused.

    Guarantees: writers of other processes go on while the connection is open, and the reader does not wait for them.

    Source: SQLite documentation, "Write-Ahead Logging", section "Concurrency"; PostgreSQL, "Repeatable Read".

    Raises:
        StoreError: If the database is unreachable or refused, or for a write.
    """
    with _store_errors(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        else:
            connection.execution_options(**{_FOR_READING: True})
        with connection.begin():
            yield connection


def insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an insert into the table that can say what a conflict does, in the dialect of the database."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def index_of(dialect: str, name: str, *columns: str) -> Index:
    """Return an index, for the declaration of a table, that only databases of one dialect have."""
    return Index(name, *columns, info={_DIALECT: dialect}).ddl_if(dialect=dialect)


def is_of(dialect: str, index: Index) -> bool:
    """Return whether databases of a dialect have the index."""
    return bool(index.info.get(_DIALECT, dialect) == dialect)


@contextmanager
def _store_errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeoutError) as error:
        reason = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        if "unable to open" in reason or "readonly" in reason:
            reason += "; set SHELFWISE_HOME to a folder to write to, or database.url to another database"
        raise StoreError(f"database {engine.url.render_as_string(hide_password=True)}: {reason}") from error


def _sqlite(url: URL, limits: DatabaseSettings) -> Engine:
    engine = create_engine(url)
    busy_ms = round(limits.lock_timeout_s * 1_000)

    def make_file(*_arguments: object) -> None:
        if url.database in {None, "", ":memory:"} or str(url.database).startswith("file:"):
            return
        path = Path(str(url.database))
        path.parent.mkdir(parents=True, exist_ok=True)
        # It names clients, and its salts tell everybody's arm. The files beside it get the same rights. What cannot be
        # opened is named by SQLite.
        with suppress(OSError):
            path.touch(PRIVATE_FILE, exist_ok=False)

    def configure(connection: object, _record: object) -> None:
        # SQLAlchemy's documented recipe: the driver begins no transaction by itself, `_begin_sqlite` does.
        connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = connection.cursor()  # type: ignore[attr-defined]
        # The time-out comes first, since switching to WAL needs a lock.
        for pragma in (f"busy_timeout={busy_ms}", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine, "do_connect", make_file)
    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: Connection) -> None:
    reads = bool(connection.get_execution_options().get(_FOR_READING, False))
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reads else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _postgresql(url: URL, limits: DatabaseSettings) -> Engine:
    if "prepare_threshold" in url.query:
        raise ConfigError("database.url: prepare_threshold is no part of a URL; set database.prepare_threshold")
    own: Mapping[str, object] = {
        "connect_timeout": limits.connect_timeout_s,
        "prepare_threshold": None if limits.prepare_threshold == "off" else limits.prepare_threshold,
        **_KEEPALIVES,
    }
    engine = create_engine(
        url, pool_pre_ping=True, connect_args={key: value for key, value in own.items() if key not in url.query}
    )
    statement_ms, lock_ms = (round(1_000 * limit) for limit in (limits.statement_timeout_s, limits.lock_timeout_s))
    answer_s = limits.statement_timeout_s + limits.connect_timeout_s if limits.statement_timeout_s else None

    def connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> object:
        # Imported here, since SQLite needs no driver of PostgreSQL.
        from stream.postgres import LimitedConnection

        connection = LimitedConnection.connect(*arguments, **options)
        connection.answer_timeout_s = answer_s
        return connection

    def limit(connection: Connection) -> None:
        # Per transaction and not at the start of a session: a pooler in transaction mode refuses start-up options and
        # shares sessions.
        connection.exec_driver_sql(
            f"SELECT set_config('statement_timeout', '{statement_ms}', true), "
            f"set_config('lock_timeout', '{lock_ms}', true)"
        )

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "begin", limit)
    return engine
