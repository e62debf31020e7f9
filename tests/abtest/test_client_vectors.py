from dataclasses import replace

import msgspec
import numpy as np
from sqlalchemy import Engine, insert, select

from abtest.client_vectors import Counted, client_vectors
from abtest.facts import MAX_INTEGER
from abtest.metrics import COLUMNS
from abtest.tables import client_orders
from stream import db
from stream.schemas.session import SessionsRecord
from tests.harness.generated_facts import arrays, fill, generate
from tests.harness.sessions import make_session, purchase, unlinked

ALL = Counted(experiment="first", epochs=(1,), start_ts=0, until_ts=None)


def test_sums_equal_the_generated_truth(store_engine: Engine) -> None:
    sessions, truth = generate(seed=41, num_clients=60)
    fill(store_engine, sessions)
    with db.read(store_engine) as connection:
        clients = client_vectors(connection, ALL)
        mature = client_vectors(connection, replace(ALL, until_ts=1_100))
    for arm, found in clients.items():
        expected = arrays(truth, arm)
        assert np.array_equal(found.vectors[:, :6], expected)
        assert np.array_equal(found.vectors[:, 6], expected[:, 4] - expected[:, 5])
        assert np.array_equal(found.vectors[:, 7:9], expected[:, 3:5])
        assert found.buyers == found.clicked_buyers == (expected[:, 3] > 0).sum()
        assert found.vectors.shape[1] == len(COLUMNS)
    num_mature = sum(session.impression_ts <= 1_100 for session in sessions)
    assert sum(float(arm.vectors[:, 0].sum()) for arm in mature.values()) == num_mature


def test_sessions_out_of_the_period_or_of_an_unknown_epoch_do_not_count(store_engine: Engine) -> None:
    lost = make_session("q1", "c1", impression_ts=1_000)
    lost.assignment[0] = msgspec.structs.replace(lost.assignment[0], epoch=7)
    early, inside = (make_session(f"q{at_ts}", f"c{at_ts}", impression_ts=at_ts) for at_ts in (900, 1_000))
    fill(store_engine, [lost, early, inside])
    with db.read(store_engine) as connection:
        found = client_vectors(connection, replace(ALL, start_ts=950, until_ts=1_000))
    assert {arm: clients.vectors[:, 0].tolist() for arm, clients in found.items()} == {"control": [1.0]}


def test_amounts_of_other_currencies_count_as_zero(store_engine: Engine) -> None:
    sessions = [
        make_session(f"q{currency}", currency, currency=currency, lines=[purchase(currency, 1, 500, currency=currency)])
        for currency in ("EUR", "USD")
    ]
    fill(store_engine, sessions)
    with db.read(store_engine) as connection:
        found = client_vectors(connection, replace(ALL, currency="EUR"))
    gross, orders = COLUMNS.index("gross_minor"), COLUMNS.index("orders")
    assert found["control"].vectors[:, gross].tolist() == [500.0, 0.0]
    assert found["control"].vectors[:, orders].tolist() == [1.0, 1.0]


def sums_of(engine: Engine, counted: Counted, column: str) -> list[float]:
    with db.read(engine) as connection:
        found = client_vectors(connection, counted)
    return [float(each) for each in found["control"].vectors[:, COLUMNS.index(column)]]


def test_purchases_without_a_click_count_from_the_first_exposure_on(store_engine: Engine) -> None:
    clicked = make_session("q1", "c1", impression_ts=2_000, lines=[purchase("t1", 1, 500, event_ts=2_500)])
    again = make_session("q2", "c1", impression_ts=3_000)
    before, at_once, later = (
        unlinked("c1", f"u{at_ts}", amount, event_ts=at_ts) for at_ts, amount in ((1_999, 1), (2_000, 20), (9_000, 300))
    )
    fill(store_engine, [clicked, again, before, at_once, later, unlinked("stranger", "u", 4_000)])
    assert sums_of(store_engine, ALL, "gross_minor") == [820.0]
    assert sums_of(store_engine, ALL, "orders") == [3.0]
    assert sums_of(store_engine, ALL, "clicked_gross_minor") == [500.0]
    assert sums_of(store_engine, ALL, "clicked_orders") == [1.0]
    assert sums_of(store_engine, replace(ALL, until_ts=3_000, attribution_s=6), "gross_minor") == [820.0]
    assert sums_of(store_engine, replace(ALL, until_ts=2_999, attribution_s=6), "gross_minor") == [520.0]


def test_a_click_moves_no_purchase_in_or_out_of_the_time_that_counts(store_engine: Engine) -> None:
    """Clients of the same purchase with a click, `a`, and without, `b`, differ in the money after a click alone."""
    records: list[SessionsRecord] = []
    for number, at_ts in enumerate((2_000, 62_000, 62_001)):
        lines = [purchase("t1", 1, 500, event_ts=at_ts)]
        records += [
            make_session(f"a{number}", f"a{number}", impression_ts=2_000, lines=lines),
            make_session(f"b{number}", f"b{number}", impression_ts=2_000),
            unlinked(f"b{number}", "t1", 500, event_ts=at_ts),
        ]
    fill(store_engine, records)
    until = replace(ALL, until_ts=2_000, attribution_s=60)
    assert sums_of(store_engine, until, "gross_minor") == [500.0, 500.0, 0.0, 500.0, 500.0, 0.0]
    assert sums_of(store_engine, until, "clicked_gross_minor") == [500.0, 500.0, 500.0, 0.0, 0.0, 0.0]


def test_fallbacks_and_stated_latencies_are_added_up(store_engine: Engine) -> None:
    sessions: list[SessionsRecord] = [
        make_session("q1", "c1", fallback="timeout", latency_us=300),
        make_session("q2", "c1", latency_us=500),
        make_session("q3", "c1"),
    ]
    fill(store_engine, sessions)
    names = ("sessions", "fallbacks", "timed_sessions", "latency_us")
    assert [sums_of(store_engine, ALL, name) for name in names] == [[3.0], [1.0], [2.0], [800.0]]


def test_sums_beyond_an_integer_of_the_database_are_numbers(store_engine: Engine) -> None:
    lines = [purchase("t0", 1, MAX_INTEGER, event_ts=2_500)]
    fill(store_engine, [make_session("q1", "c1", impression_ts=2_000, lines=lines)])
    with db.transaction(store_engine) as connection:
        row = dict(connection.execute(select(client_orders)).mappings().one())
        connection.execute(insert(client_orders), [{**row, "transaction_id": f"t{n}"} for n in range(1, 1_100)])
    assert sums_of(store_engine, ALL, "gross_minor") == [1_100.0 * MAX_INTEGER]


def test_an_unknown_experiment_has_no_clients(store_engine: Engine) -> None:
    with db.read(store_engine) as connection:
        assert client_vectors(connection, ALL) == {}


def test_the_time_before_ends_at_the_first_exposure_with_closed_windows(store_engine: Engine) -> None:
    """Sums before are those of sessions in any experiment or none; they leave out what the exposure could move."""

    def session(name: str, client: str, at_ts: int, amount: int, *, arm: str | None = None) -> SessionsRecord:
        lines = [purchase(name, 0, amount, event_ts=at_ts + 1)]
        return make_session(name, client, arm=arm, impression_ts=at_ts, lines=lines)

    fill(
        store_engine,
        [
            session("old", "a", 10_000, 1),
            session("past", "a", 30_000, 20),
            session("more", "a", 40_000, 300),
            session("open", "a", 95_500, 4_000),
            session("first", "a", 100_000, 50_000, arm="control"),
            session("alone", "b", 100_000, 7, arm="control"),
            unlinked("a", "u1", 600_000, event_ts=60_000),
            unlinked("a", "u2", 7_000_000, event_ts=100_001),
        ],
    )
    counted = replace(ALL, attribution_s=5, before_s=80)
    with db.read(store_engine) as connection:
        found = client_vectors(connection, counted)["control"].vectors
        plain = client_vectors(connection, replace(counted, before_s=0))["control"].vectors
    assert np.array_equal(found[:, : len(COLUMNS)], plain)
    before = {name: found[:, len(COLUMNS) + at].tolist() for at, name in enumerate(COLUMNS)}
    assert before["sessions"] == [2.0, 0.0]
    assert before["orders"] == [4.0, 0.0]
    assert before["gross_minor"] == [604_320.0, 0.0]
    assert before["clicked_orders"] == [2.0, 0.0]
    assert before["clicked_gross_minor"] == [320.0, 0.0]
