import pytest
from sqlalchemy import Engine, delete, event, func, select

from abtest import queries
from abtest.client_vectors import Counted
from abtest.session_counts import SessionCounts, read_session_counts
from abtest.store import ExperimentStore
from abtest.tables import moment_cuts, session_facts
from stream import db
from tests.harness.generated_facts import LAST_TS, append, fill, generate
from tests.harness.sessions import make_session, purchase

ALL = Counted(experiment="first", epochs=(1,), start_ts=500, until_ts=2_000)


def test_counts_are_by_time_money_and_arm(store_engine: Engine) -> None:
    lines = [purchase("t", 1, 500, currency="CHF")]
    fill(
        store_engine,
        [
            make_session("early", "c1", impression_ts=400),
            make_session("first", "c2", impression_ts=600, currency="XXX"),
            make_session("paid", "c3", impression_ts=2_000, lines=lines),
            make_session("newer", "c4", impression_ts=2_400),
            make_session("late", "c5", impression_ts=2_600),
        ],
    )
    with db.read(store_engine) as connection:
        found = read_session_counts(connection, ALL, ("control", "treatment"), end_ts=2_500)
        none = read_session_counts(
            connection, Counted(experiment="x", epochs=(1,), start_ts=0, until_ts=9), (), end_ts=9
        )
    assert found == SessionCounts(
        first_ts=600,
        last_ts=2_400,
        up_to=3,
        counted=2,
        open=1,
        after_end=1,
        priced=1,
        paid=1,
        foreign=1,
        currencies=("EUR", "EUR"),
        versions={"control": 1, "treatment": 0},
    )
    assert none == SessionCounts(versions={})


@pytest.mark.parametrize(("stored", "passes"), [(True, 1), (False, 2)])
def test_a_report_passes_over_the_sessions_once_or_twice_and_lets_a_writer_commit(
    store_engine: Engine, stored: bool, passes: int
) -> None:
    """One pass counts; without stored sums another one sums by client. A sink commits between them and is not seen."""
    sessions, _ = generate(seed=5, num_clients=30)
    fill(store_engine, sessions)
    if not stored:
        with db.transaction(store_engine) as connection:
            connection.execute(delete(moment_cuts))
    store = ExperimentStore(store_engine)
    experiment, epochs = store.get("first"), store.epochs("first")
    statements: list[str] = []

    def commit_a_session(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "FROM session_facts" not in statement:
            return
        statements.append(statement)
        if len(statements) == 1:
            append(other, [make_session("new", "stranger", impression_ts=1_001)], matured_ts=LAST_TS)

    other = db.create(store_engine.url.render_as_string(hide_password=False))
    with db.read(store_engine) as connection:
        connection.execute(select(func.count()).select_from(session_facts))
        event.listen(store_engine, "after_cursor_execute", commit_a_session)
        found = queries.read(connection, experiment, epochs)
        event.remove(store_engine, "after_cursor_execute", commit_a_session)
        again = queries.read(connection, experiment, epochs)
    other.dispose()
    assert sum("LIMIT" not in statement for statement in statements) == passes
    assert sum(count.sessions for count in found.counts) == len(sessions)
    assert (found.counts, found.strays) == (again.counts, again.strays)
    with db.read(store_engine) as connection:
        assert sum(count.sessions for count in queries.read(connection, experiment, epochs).counts) == len(sessions) + 1
