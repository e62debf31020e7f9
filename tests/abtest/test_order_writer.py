"""Orders in the database."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, select

from abtest.fact_writer import FactWriter
from abtest.tables import client_orders, unlinked_lines
from stream import db
from stream.schemas import topics
from stream.schemas.session import SessionsRecord
from tests.harness.sessions import click, log_of, make_session, purchase, unlinked


def orders_after(engine: Engine, *batches: list[SessionsRecord]) -> dict[str, tuple[int, int, int, int]]:
    writer = FactWriter(engine, refund_s=60)
    first = writer.open({(topics.SESSIONS, 0): 0})[topics.SESSIONS, 0]
    for batch in batches:
        writer.apply(log_of(batch, first=first))
        first += len(batch)
    with engine.connect() as connection:
        rows = connection.execute(select(client_orders)).all()
    return {
        f"{row.client_id}/{row.transaction_id}": (
            row.gross_minor,
            row.refund_minor,
            row.linked_lines,
            row.unlinked_lines,
        )
        for row in rows
    }


JOINED = make_session("q1", "c1", events=[click("e1", 3)], lines=[purchase("t1", 3, 500)])


def test_purchases_with_and_without_a_click_are_orders(store_engine: Engine) -> None:
    found = orders_after(store_engine, [JOINED, unlinked("c1", "t2", 300), unlinked("c2", "t1", 40)])
    assert found == {"c1/t1": (500, 0, 1, 0), "c1/t2": (300, 0, 0, 1), "c2/t1": (40, 0, 0, 1)}


def test_a_purchase_that_joins_later_moves_no_money(store_engine: Engine) -> None:
    late = unlinked("c1", "t1", 500, line_id="l3")
    assert orders_after(store_engine, [late]) == {"c1/t1": (500, 0, 0, 1)}
    assert orders_after(store_engine, [JOINED]) == {"c1/t1": (500, 0, 1, 0)}
    assert orders_after(store_engine, [late]) == {"c1/t1": (500, 0, 1, 0)}


def test_refunds_count_within_the_window_of_the_purchase(store_engine: Engine) -> None:
    in_time = unlinked("c1", "t2", 100, refund_id="r1", event_ts=63_000)
    too_late = unlinked("c1", "t2", 100, refund_id="r2", event_ts=63_001)
    assert orders_after(store_engine, [in_time, too_late], [unlinked("c1", "t2", 300)]) == {"c1/t2": (300, 100, 0, 1)}


def test_each_line_is_kept_once(store_engine: Engine) -> None:
    line = unlinked("c1", "t2", 300)
    orders_after(store_engine, [line, line], [line])
    with store_engine.connect() as connection:
        (row,) = connection.execute(select(unlinked_lines)).all()
    assert (row.line_id, row.refund_id, row.action, row.amount_minor, row.currency) == (
        "l1",
        "",
        "purchase",
        300,
        "EUR",
    )


def test_more_orders_than_one_query_takes(store_engine: Engine) -> None:
    found = orders_after(store_engine, [unlinked(f"c{index}", "t", index + 1) for index in range(450)])
    assert sum(gross for gross, *_ in found.values()) == 450 * 451 // 2


def test_orders_of_a_batch_are_found_by_an_index(tmp_path: Path) -> None:
    """SQLite reads a whole table for a condition on pairs of columns alone."""
    engine = db.create(f"sqlite:///{tmp_path}/test.db")
    db.metadata.create_all(engine)
    plans: list[str] = []

    def explain(connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("SELECT") and ("unlinked_lines" in statement or "session_orders" in statement):
            plans.extend(row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))

    event.listen(engine, "before_cursor_execute", explain)
    orders_after(engine, [JOINED, *(unlinked(f"c{index}", "t", 1) for index in range(30))])
    found = [step for step in plans if "unlinked_lines" in step or "session_orders" in step]
    assert len(found) >= 2
    assert [step for step in found if not step.startswith("SEARCH")] == []
