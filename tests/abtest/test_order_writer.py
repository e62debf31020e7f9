"""Orders in the database."""

from sqlalchemy import Engine, select

from abtest.fact_writer import FactWriter
from abtest.tables import client_orders, unlinked_lines
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
