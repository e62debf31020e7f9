"""Erasure of a client."""

from sqlalchemy import Engine, select

from abtest.erasure import Erased, erase
from abtest.tables import client_sums
from stream import db
from tests.harness.fact_tables import FACT_TABLES
from tests.harness.generated_facts import fill
from tests.harness.sessions import click, make_session, purchase, unlinked


def ids(engine: Engine, client_id: str) -> set[str]:
    """Tables with a row that names the client, or a query of it."""
    with db.read(engine) as connection:
        return {
            table.name
            for table in (*FACT_TABLES, client_sums)
            for row in connection.execute(select(table))
            if client_id in {str(value) for value in row} or f"q-{client_id}" in {str(value) for value in row}
        }


def test_nothing_of_a_client_stays_and_others_keep_everything(store_engine: Engine) -> None:
    fill(
        store_engine,
        [
            record
            for who in ("c1", "c2")
            for record in (
                make_session(f"q-{who}", who, events=[click(f"e-{who}", 1)], lines=[purchase(f"t-{who}", 1, 500)]),
                unlinked(who, f"u-{who}"),
            )
        ],
    )
    every = {table.name for table in (*FACT_TABLES, client_sums)}
    assert ids(store_engine, "c1") == ids(store_engine, "c2") == every
    assert erase(store_engine, "c1") == Erased(sessions=1, orders=2, lines=1, exposures=1)
    assert ids(store_engine, "c1") == set()
    assert ids(store_engine, "c2") == every
    assert erase(store_engine, "c1") == Erased(sessions=0, orders=0, lines=0, exposures=0)
