import multiprocessing
from collections import Counter
from importlib.resources import files
from multiprocessing.queues import Queue

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, func, inspect, select

from deploy.migrations import upgrade
from deploy.migrations.revision import configuration, revision
from stream import db
from stream.errors import ConfigError
from tests.deploy.migrations.conftest import set_revision

VIEWS = {"v_lift_latest", "v_lift_timeseries", "v_health", "v_traffic", "v_versions"}
NUM_PROCESSES = 4


def differences(connection: Connection) -> list[object]:
    """Return the differences between the database and the tables that the code declares."""
    return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), db.metadata))


def test_empty_to_head_leaves_no_difference(url: str) -> None:
    assert upgrade.upgrade(url).state == "absent"
    assert upgrade.upgrade(url).state == "head"
    engine = db.create(url)
    with engine.connect() as connection:
        assert differences(connection) == []
        assert set(inspect(connection).get_view_names()) == VIEWS
        for name in sorted(VIEWS):
            view = Table(name, MetaData(), autoload_with=connection)
            assert connection.execute(select(func.count()).select_from(view)).scalar_one() == 0
    engine.dispose()


def test_difference_is_seen(url: str) -> None:
    engine = db.create(url)
    with engine.begin() as connection:
        assert differences(connection)
    engine.dispose()


def test_a_newer_schema_is_left_alone(url: str) -> None:
    upgrade.upgrade(url)
    set_revision(url, "9999")
    with pytest.raises(ConfigError, match="schema revision 9999 is unknown to this release, which needs 0001"):
        upgrade.upgrade(url)


def _upgrade(url: str, results: "Queue[str]") -> None:
    results.put(upgrade.upgrade(url).state)


@pytest.mark.slow
def test_of_four_processes_one_upgrades_and_the_others_wait(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    results: Queue[str] = spawn.Queue()
    processes = [spawn.Process(target=_upgrade, args=(url, results)) for _ in range(NUM_PROCESSES)]
    for process in processes:
        process.start()
    states = Counter(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert states == {"absent": 1, "head": NUM_PROCESSES - 1}
    engine = db.create(url)
    assert revision(engine).state == "head"
    engine.dispose()


def test_one_head() -> None:
    engine = db.create("sqlite://")
    with engine.connect() as connection:
        assert len(ScriptDirectory.from_config(configuration(connection)).get_heads()) == 1
    engine.dispose()


def test_migrations_are_package_files() -> None:
    folder = files("deploy") / "migrations"
    assert (folder / "env.py").is_file()
    assert (folder / "script.py.mako").is_file()
    assert any(entry.name.startswith("0001") for entry in (folder / "versions").iterdir())
