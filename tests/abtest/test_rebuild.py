from collections.abc import Callable

import pytest
from sqlalchemy import Connection, Engine, delete, update

from abtest import moment_store
from abtest import rebuild as module
from abtest.client_vectors import Counted
from abtest.moment_rows import MATURED, SETTLED, ClientState, cut
from abtest.plan import Plan
from abtest.rebuild import Rebuilt
from abtest.store import ExperimentStore
from abtest.tables import arm_sums, client_sums, moment_cuts
from stream import db
from stream.errors import StoreError
from tests.harness.generated_facts import ARMS, LAST_TS, append, fill, generate
from tests.harness.sessions import click, make_session

PAUSES: list[float] = []
on_sqlite = pytest.mark.parametrize("store_engine", ["sqlite"], indirect=True)


def rebuild(engine: Engine, key: str) -> tuple[Rebuilt, ...]:
    """Compare and mend without pauses, which are kept in `PAUSES`."""
    PAUSES.clear()
    return module.rebuild(engine, key, pause=PAUSES.append)


def damage(engine: Engine) -> None:
    """Change the sums of one arm and of one client of the other arm."""
    with db.transaction(engine) as connection:
        own = (arm_sums.c.cut == MATURED, arm_sums.c.arm == "control")
        connection.execute(update(arm_sums).where(*own).values(clients=arm_sums.c.clients + 3))
        connection.execute(delete(client_sums).where(client_sums.c.cut == MATURED, client_sums.c.client_id == "c00001"))


def once_while_facts_are_read(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Call something when the clients of the first comparison are read and its snapshot is open."""
    real, waiting = moment_store.states_of_facts, [what]

    def states(connection: Connection, counted: Counted) -> dict[str, ClientState]:
        found = real(connection, counted)
        if counted.clients is None and waiting:
            waiting.pop()()
        return found

    monkeypatch.setattr(moment_store, "states_of_facts", states)


def test_what_the_sink_kept_is_that_of_the_facts(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=20)
    fill(store_engine, sessions)
    expected = [Rebuilt(cut=cut, clients=20, differing=0, largest=0, is_of_plan=True) for cut in ("matured", "settled")]
    assert list(rebuild(store_engine, "first")) == expected
    assert list(rebuild(store_engine, "first")) == expected


def test_a_cut_before_the_first_session_differs_in_nothing(store_engine: Engine) -> None:
    """Its sums are of no currency yet, while the matured sessions have one."""
    sessions, _ = generate(seed=15, num_clients=20)
    fill(store_engine, sessions, plan=Plan(refund_s=1_000))
    with db.read(store_engine) as connection:
        found = {name: cut(connection, "first", name) for name in (MATURED, SETTLED)}
    matured, settled = found[MATURED], found[SETTLED]
    assert matured is not None
    assert settled is not None
    assert (matured.currency, settled.currency) == ("EUR", None)
    assert [(each.clients, each.is_equal) for each in rebuild(store_engine, "first")] == [(20, True), (0, True)]
    assert all(each.is_equal for each in rebuild(store_engine, "first"))


def test_a_difference_is_named_and_mended(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=20)
    fill(store_engine, sessions)
    damage(store_engine)
    first, second = rebuild(store_engine, "first")
    assert (first.differing, first.is_equal, second.is_equal) == (2, False, True)
    assert first.largest >= 3
    assert all(found.is_equal for found in rebuild(store_engine, "first"))


def test_a_client_of_another_arm_and_another_currency_are_differences(store_engine: Engine) -> None:
    sessions, _ = generate(seed=15, num_clients=20)
    fill(store_engine, sessions)
    with db.transaction(store_engine) as connection:
        own = (client_sums.c.client_id == "c00001", client_sums.c.cut == MATURED)
        connection.execute(update(client_sums).where(*own).values(arm="other"))
        connection.execute(update(moment_cuts).where(moment_cuts.c.cut == "settled").values(currency="USD"))
    first, second = rebuild(store_engine, "first")
    assert (first.differing, first.largest, first.is_equal) == (1, 1, False)
    assert (second.differing, second.is_of_plan, second.is_equal) == (0, False, False)


def test_without_a_mature_session_there_is_nothing_to_rebuild_and_without_stored_sums_nothing_differs(
    store_engine: Engine,
) -> None:
    ExperimentStore(store_engine).create(key="empty", arms=ARMS, now_ts=0)
    assert rebuild(store_engine, "empty") == ()
    ExperimentStore(store_engine).stop("empty", now_ts=1)
    sessions, _ = generate(seed=15, num_clients=20)
    fill(store_engine, sessions)
    with db.transaction(store_engine) as connection:
        for table in (client_sums, arm_sums, moment_cuts):
            connection.execute(delete(table))
    first, _ = rebuild(store_engine, "first")
    assert (first.differing, first.is_equal, first.clients) == (None, True, 20)
    assert rebuild(store_engine, "first")[0].differing == 0


def test_the_sink_goes_on_meanwhile(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batch moves the client and the arm whose sums differ, and brings a client."""
    sessions, _ = generate(seed=15, num_clients=20)
    fill(store_engine, sessions)
    damage(store_engine)
    batch = [
        make_session(f"new-{client}", client, arm=arm, impression_ts=2_000, events=[click(f"e-{client}", 1)])
        for client, arm in (("c00001", "treatment"), ("c00003", "control"), ("c99999", "control"))
    ]
    once_while_facts_are_read(monkeypatch, lambda: append(store_engine, batch, matured_ts=LAST_TS))
    assert [found.clients for found in rebuild(store_engine, "first")] == [20, 20]
    again = rebuild(store_engine, "first")
    assert [(found.clients, found.is_equal) for found in again] == [(21, True), (21, True)]


@on_sqlite
def test_equal_sums_are_compared_without_a_lock(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_engine, generate(seed=15, num_clients=20)[0])

    def refuse(_engine: Engine) -> None:
        raise AssertionError("a transaction that writes")

    monkeypatch.setattr(db, "transaction", refuse)
    assert all(found.is_equal for found in rebuild(store_engine, "first"))


@on_sqlite
def test_two_repairs_at_once_end_in_the_sums_of_the_facts(
    store_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store_engine, generate(seed=15, num_clients=20)[0])
    damage(store_engine)
    once_while_facts_are_read(monkeypatch, lambda: rebuild(store_engine, "first"))
    assert rebuild(store_engine, "first")[0].differing == 2
    assert all(found.is_equal for found in rebuild(store_engine, "first"))


@on_sqlite
def test_sums_that_stay_wrong_are_an_error(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_engine, generate(seed=15, num_clients=20)[0])
    damage(store_engine)
    monkeypatch.setattr(moment_store, "add_up_again", lambda *_arguments: None)
    with pytest.raises(StoreError, match="its sums differ from the facts again after 3 repairs"):
        rebuild(store_engine, "first")


@on_sqlite
def test_repairs_take_transactions_of_few_clients(store_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_engine, generate(seed=15, num_clients=20)[0])
    with db.transaction(store_engine) as connection:
        connection.execute(delete(client_sums).where(client_sums.c.cut == MATURED))
        connection.execute(delete(arm_sums).where(arm_sums.c.cut == MATURED))
        connection.execute(update(moment_cuts).where(moment_cuts.c.cut == SETTLED).values(currency="USD"))
    real, sizes = moment_store.states_of_facts, list[int]()

    def states(connection: Connection, counted: Counted) -> dict[str, ClientState]:
        if counted.clients is not None:
            sizes.append(len(counted.clients))
        return real(connection, counted)

    monkeypatch.setattr(moment_store, "states_of_facts", states)
    monkeypatch.setattr(module, "_CHUNK", 3)
    rebuild(store_engine, "first")
    assert len(PAUSES) > 40 / 3
    assert min(PAUSES) > 0.025, "SQLite asks again for its lock every 25 ms at first"
    assert max(sizes) <= 3
    assert sum(sizes) >= 40
    assert all(found.is_equal for found in rebuild(store_engine, "first"))


@on_sqlite
def test_reports_read_the_facts_until_all_clients_are_added_up(
    store_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store_engine, generate(seed=15, num_clients=20)[0])
    counted = Counted(
        experiment="first",
        epochs=(1,),
        start_ts=0,
        until_ts=LAST_TS,
        attribution_s=Plan().attribution_s,
        currency="EUR",
    )
    with db.transaction(store_engine) as connection:
        assert moment_store.stored(connection, counted, MATURED) is not None
        connection.execute(update(moment_cuts).values(currency="USD"))

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(moment_store, "add_up_again", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild(store_engine, "first")
    append(store_engine, [make_session("new", "c99999", impression_ts=2_000)], matured_ts=LAST_TS)
    with db.read(store_engine) as connection:
        assert moment_store.stored(connection, counted, MATURED) is None
    assert rebuild(store_engine, "first")[0].differing is None
    with db.read(store_engine) as connection:
        assert moment_store.stored(connection, counted, MATURED) is not None


def test_sums_up_to_a_later_time_than_the_end_begin_anew(store_engine: Engine) -> None:
    fill(store_engine, generate(seed=15, num_clients=20)[0])
    ExperimentStore(store_engine).stop("first", now_ts=1_200)
    first, _ = rebuild(store_engine, "first")
    assert 0 < first.clients < 20
    assert not first.is_equal
    assert all(found.is_equal for found in rebuild(store_engine, "first"))
    with db.read(store_engine) as connection:
        matured = cut(connection, "first", MATURED)
    assert matured is not None
    assert matured.until_ts == 1_200
