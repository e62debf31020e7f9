from sqlalchemy import Engine, delete, update

from abtest.moment_store import MATURED, SETTLED, cut
from abtest.plan import Plan
from abtest.rebuild import Rebuilt, rebuild
from abtest.store import ExperimentStore
from abtest.tables import arm_sums, client_sums, moment_cuts
from stream import db
from tests.harness.generated_facts import ARMS, fill, generate


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
    matured = (arm_sums.c.cut == MATURED, arm_sums.c.arm == "control")
    with db.transaction(store_engine) as connection:
        clients = connection.execute(arm_sums.select().where(*matured)).one().clients
        connection.execute(update(arm_sums).where(*matured).values(clients=clients + 3))
        connection.execute(delete(client_sums).where(client_sums.c.cut == MATURED, client_sums.c.client_id == "c00001"))
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
