import multiprocessing
from collections import Counter
from importlib.resources import files
from multiprocessing.queues import Queue

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, func, insert, inspect, select

from abtest.fact_writer import FactWriter
from abtest.tables import client_orders, traffic_minutes
from deploy.migrations import upgrade
from deploy.migrations.revision import configuration, of_dialect, revision
from stream import db
from stream.errors import ConfigError
from stream.schemas import topics
from tests.deploy.migrations.conftest import HEAD, set_revision
from tests.harness.sessions import click, log_of, make_session, purchase, refund
from trainer.rollout.store import RolloutStore
from trainer.versions.leases import CONTROLLER
from trainer.versions.registry import Registry

VIEWS = {"v_lift_latest", "v_lift_timeseries", "v_health", "v_traffic", "v_versions", "v_looks"}
NUM_PROCESSES = 4


def differences(connection: Connection) -> list[object]:
    """Return the differences between the database and the tables that the code declares."""
    options = {"compare_type": True, "include_object": of_dialect(connection)}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), db.metadata))


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


def test_orders_and_minutes_follow_from_the_facts_and_the_sink_reads_again(url: str) -> None:
    """A release before has no such tables but the facts; the sink would write the same rows."""
    contents = [
        make_session("q1", "c1", lines=[purchase("t1", 1, 500), purchase("t2", 2, 90, currency="USD")]),
        make_session("q2", "c1", lines=[purchase("t1", 3, 70, event_ts=2_500), refund("t1", 3, 99)]),
        make_session("q3", "c2", currency="EUR", lines=[purchase("t1", 1, 5, currency="XXX")]),
        make_session("q4", "c2", events=[click("e1", 1)]),
    ]
    upgrade.upgrade(url)
    engine = db.create(url)
    writer = FactWriter(engine)
    writer.open({(topics.SESSIONS, 0): 0})
    writer.apply(log_of(contents))
    with db.transaction(engine) as connection:
        wanted = connection.execute(select(client_orders)).all()
        minutes = connection.execute(select(traffic_minutes).order_by(*traffic_minutes.primary_key)).all()
        command.downgrade(configuration(connection), "0004")
    assert (len(wanted), len(minutes)) == (3, 1)
    assert upgrade.upgrade(url).state == "older"
    with engine.connect() as connection:
        assert connection.execute(select(client_orders)).all() == wanted
        assert connection.execute(select(traffic_minutes).order_by(*traffic_minutes.primary_key)).all() == minutes
    assert FactWriter(engine).open({(topics.SESSIONS, 0): 0}) == {(topics.SESSIONS, 0): 0}
    engine.dispose()


def test_rows_of_the_first_revision_are_kept_and_the_way_back_is_open(url: str) -> None:
    """A release before the rollout has versions and events; they count as what they were, also after a downgrade."""
    engine = db.create(url)
    with db.transaction(engine) as connection:
        command.upgrade(configuration(connection), "0001")
        names = ("lineages", "leases", "versions", "rollout_events")
        old = {name: Table(name, MetaData(), autoload_with=connection, resolve_fks=False) for name in names}
        lineage = {"name": "prm", "model": "prm", "profile": "tiny", "config_hash": "h", "data_policy": "shared"}
        connection.execute(insert(old["lineages"]).values(**lineage, status="draft", row_version=1))
        connection.execute(insert(old["leases"]).values(lineage="prm", holder="one", term=4, expires_ts=9))
        for number, status in ((1, "rejected"), (2, "superseded"), (3, "live")):
            row = {"artifact": f"{number:064x}", "term": 4, "status": status, "metrics": {}, "offsets": {}}
            row |= {"lineage": "prm", "version": number, "published_ts": 10 * number, "row_version": 3}
            connection.execute(insert(old["versions"]).values(**row))
        event = {"lineage": "prm", "version": 3, "to_status": "live", "who": "term 4", "why": "checks", "event_ts": 30}
        connection.execute(insert(old["rollout_events"]).values(**event, evidence={}))
    assert upgrade.upgrade(url).state == "older"
    found = RolloutStore(engine).view("prm")
    assert [(v.number, v.status, v.live_since) for v in found.versions] == [
        (1, "rejected", None),
        (2, "superseded", 20),
        (3, "live", 30),
    ]
    assert (found.lock, found.policy) == (None, {})
    (kept,) = RolloutStore(engine).history("prm")
    assert (kept.actor, kept.before, kept.after) == ("term 4", None, None)
    registry = Registry(engine)
    assert registry.leases.acquire("prm", "one", 5, 10) == 5
    registry.publish("prm", 4, "4" * 64, parent=None, term=5, metrics={}, offsets={}, published_ts=40)
    registry.leases.ensure(CONTROLLER)
    with db.transaction(engine) as connection:
        command.downgrade(configuration(connection), "0001")
        old = {name: Table(name, MetaData(), autoload_with=connection, resolve_fks=False) for name in names}
        assert connection.execute(select(old["leases"].c.lineage, old["leases"].c.term)).all() == [("prm", 5)]
        restored = connection.execute(select(old["lineages"])).mappings().one()
        assert dict(restored) == {**lineage, "status": "draft", "row_version": 1}
        assert connection.execute(select(old["rollout_events"].c.who)).scalars().all()[0] == "term 4"
    assert upgrade.upgrade(url).state == "older"
    engine.dispose()


def test_difference_is_seen(url: str) -> None:
    engine = db.create(url)
    with engine.begin() as connection:
        assert differences(connection)
    engine.dispose()


def test_a_newer_schema_is_left_alone(url: str) -> None:
    upgrade.upgrade(url)
    set_revision(url, "9999")
    with pytest.raises(ConfigError, match=f"schema revision 9999 is unknown to this release, which needs {HEAD}"):
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
