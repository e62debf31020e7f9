import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, func, insert, select

from stream import db
from stream.db_settings import DatabaseSettings
from stream.errors import ConfigError, StoreError
from tests.harness.postgres import new_database
from tests.harness.proxy import Proxy
from tests.harness.silent_server import silent_server
from tests.harness.stores import database_url

numbers = Table("numbers", MetaData(), Column("number", Integer, primary_key=True))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made = db.create(database_url(request.param, tmp_path, request))
    with db.transaction(made) as connection:
        numbers.create(connection)
    yield made
    made.dispose()


def count(engine: Engine) -> int:
    with db.read(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(numbers)).scalar_one())


def test_a_writer_commits_while_a_reader_is_open_and_the_reader_keeps_its_state(engine: Engine) -> None:
    with db.read(engine) as reader:
        before = reader.execute(select(func.count()).select_from(numbers)).scalar_one()
        with db.transaction(engine) as writer:
            writer.execute(insert(numbers).values(number=1))
        assert count(engine) == 1
        assert reader.execute(select(func.count()).select_from(numbers)).scalar_one() == before == 0


def test_a_reader_is_answered_while_a_writer_is_open(engine: Engine) -> None:
    with db.transaction(engine) as writer:
        writer.execute(insert(numbers).values(number=1))
        assert count(engine) == 0
    assert count(engine) == 1


def test_a_write_through_a_reader_is_refused_and_the_connection_stays_usable(engine: Engine) -> None:
    with pytest.raises(StoreError, match=r"read-?only"), db.read(engine) as reader:
        reader.execute(insert(numbers).values(number=1))
    with db.transaction(engine) as writer:
        writer.execute(insert(numbers).values(number=2))
    assert count(engine) == 1


def test_a_failed_transaction_leaves_nothing(engine: Engine) -> None:
    def insert_twice() -> None:
        with db.transaction(engine) as writer:
            writer.execute(insert(numbers).values(number=1))
            writer.execute(insert(numbers).values(number=1))

    with pytest.raises(StoreError, match=r"(?i)unique"):
        insert_twice()
    assert count(engine) == 0


def test_a_lock_that_is_not_released_is_an_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    holder, other = db.create(url), db.create(url, DatabaseSettings(lock_timeout_s=0.05))
    with (
        db.transaction(holder),
        pytest.raises(StoreError, match="database is locked"),
        db.transaction(other),
    ):
        pytest.fail("two writers at once")
    holder.dispose()
    other.dispose()


@pytest.mark.postgres
def test_a_row_lock_that_is_not_released_is_an_error(postgres_url: str) -> None:
    url = new_database(postgres_url)
    holder, other = db.create(url), db.create(url, DatabaseSettings(lock_timeout_s=0.05))
    with db.transaction(holder) as connection:
        numbers.create(connection)
        connection.execute(insert(numbers).values(number=1))
    locked = select(numbers).with_for_update()
    with db.transaction(holder) as first:
        first.execute(locked)
        with pytest.raises(StoreError, match="lock timeout"), db.transaction(other) as second:
            second.execute(locked)
    holder.dispose()
    other.dispose()


@pytest.mark.postgres
def test_a_statement_that_does_not_end_is_an_error(postgres_url: str) -> None:
    engine = db.create(postgres_url, DatabaseSettings(statement_timeout_s=0.05))
    with pytest.raises(StoreError, match="statement timeout"), db.read(engine) as connection:
        connection.execute(select(func.pg_sleep(3600)))
    engine.dispose()


@pytest.mark.postgres
def test_no_statement_timeout_means_no_limit(postgres_url: str) -> None:
    engine = db.create(postgres_url, DatabaseSettings(statement_timeout_s=0))
    with db.read(engine) as connection:
        assert connection.execute(select(func.current_setting("statement_timeout"))).scalar_one() == "0"
    engine.dispose()


@pytest.mark.slow
def test_a_server_that_accepts_and_never_answers_is_an_error_of_one_line() -> None:
    with silent_server() as port:
        engine = db.create(
            f"postgresql://shelfwise:secret@127.0.0.1:{port}/shelfwise", DatabaseSettings(connect_timeout_s=1)
        )
        with pytest.raises(StoreError, match="connection timeout expired") as raised, db.read(engine):
            pytest.fail("no server answers")
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.postgres
def test_a_server_that_falls_silent_is_an_error_and_is_used_again_later(postgres_url: str) -> None:
    port = int(postgres_url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        limits = DatabaseSettings(statement_timeout_s=0.2, connect_timeout_s=2)
        engine = db.create(proxy.through(postgres_url), limits)

        def read_from_a_stalled_server() -> None:
            with db.read(engine) as connection:
                connection.execute(select(1))
                proxy.stall()
                connection.execute(select(1))

        with pytest.raises(StoreError, match=r"no answer within 2\.2 s"):
            read_from_a_stalled_server()
        proxy.flow()
        with db.read(engine) as connection:
            assert connection.execute(select(1)).scalar_one() == 1
        engine.dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://localhost/x", "expected sqlite or postgresql"),
        ("nonsense", r"database\.url"),
        ("postgresql://localhost/x?prepare_threshold=0", r"database\.prepare_threshold"),
        ("postgresql://ada:hunter2", r"^database\.url: expected a number as the port$"),
    ],
)
def test_refused_urls_are_named(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        db.create(url)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


def test_others_on_this_machine_do_not_read_a_new_file(tmp_path: Path) -> None:
    engine = db.create(f"sqlite:///{tmp_path}/new/test.db")
    with db.transaction(engine) as connection:
        numbers.create(connection)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    engine.dispose()
    assert modes == dict.fromkeys(("test.db", "test.db-shm", "test.db-wal"), 0o600)
