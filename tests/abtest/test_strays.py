import msgspec
from sqlalchemy import Engine

from abtest import first_exposures
from abtest.client_vectors import Counted
from abtest.plan import Plan
from abtest.queries import exposed_clients
from abtest.session_counts import read_session_counts
from abtest.store import ExperimentStore
from abtest.strays import Strays, read_strays
from stream import db
from stream.schemas.session import Session
from tests.harness.generated_facts import fill
from tests.harness.sessions import make_session, purchase

ALL = Counted(experiment="first", epochs=(1,), start_ts=500, until_ts=2_000)


def strays(engine: Engine, sessions: list[Session], *, plan: Plan | None = None, end_ts: int | None = None) -> Strays:
    fill(engine, sessions, plan=plan)
    experiment = ExperimentStore(engine).get("first")
    with db.read(engine) as connection:
        counts = read_session_counts(connection, ALL, (), end_ts=end_ts)
        exposed = exposed_clients(first_exposures.read(connection, ALL, ALL))
        return read_strays(connection, experiment, ALL, counts, exposed)


def test_the_most_frequent_currency_is_that_of_the_experiment(store_engine: Engine) -> None:
    sessions = [make_session(f"q{index}", f"c{index}", currency="EUR") for index in range(3)]
    paid = make_session("usd", "c9", currency="USD", lines=[purchase("t", 1, 500, currency="USD")])
    line = make_session("chf", "c8", currency="EUR", lines=[purchase("u", 1, 500, currency="CHF")])
    unknown = make_session("xxx", "c7", currency="XXX")
    found = strays(store_engine, [*sessions, paid, line, unknown])
    assert (found.currency, found.foreign_currencies) == ("EUR", ("CHF", "USD"))
    assert (found.foreign_sessions, found.foreign_money, found.money_sessions) == (2, 2, 2)
    assert found.foreign_share == 1.0


def test_the_plan_names_the_currency(store_engine: Engine) -> None:
    sessions = [make_session(f"q{index}", f"c{index}", currency="EUR") for index in range(3)]
    found = strays(store_engine, sessions, plan=Plan(currency="USD"))
    assert (found.currency, found.foreign_sessions, found.foreign_money) == ("USD", 3, 0)


def test_sessions_and_clients_out_of_the_plan_are_counted(store_engine: Engine) -> None:
    lost = make_session("lost", "c1")
    lost.assignment[0] = msgspec.structs.replace(lost.assignment[0], epoch=7)
    found = strays(
        store_engine,
        [
            lost,
            make_session("early", "c2", impression_ts=400),
            make_session("fits", "c3"),
            make_session("unknown", "c4", arm="other"),
            make_session("late", "c5", impression_ts=3_000),
        ],
        end_ts=2_500,
    )
    assert (found.no_epoch, found.sessions, found.after_end) == (2, 4, 1)
    assert (found.unknown_arm, found.clients, found.unknown_arm_share) == (1, 2, 0.5)


def test_an_experiment_without_sessions_has_no_strays(store_engine: Engine) -> None:
    found = strays(store_engine, [])
    assert found == Strays()
    assert (found.foreign_share, found.no_epoch_share, found.unknown_arm_share) == (0.0, 0.0, 0.0)
