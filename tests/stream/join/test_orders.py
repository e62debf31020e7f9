"""Order lines: the list that each one joins, or the reason why it joins none."""

from dataclasses import replace

import pytest

from stream.operations.recount import recount
from tests.laws.join_log import (
    CLIENTS,
    MAX_DELAY_MS,
    SETTINGS,
    Event,
    Log,
    click,
    impression,
    purchase,
    reversal,
    run,
    send,
    whole_reversal,
)
from tests.stream.join.runs import WINDOW_S, last_session, reasons, run_events


@pytest.mark.parametrize(
    ("reason", "happened"),
    [
        ("no_click", [impression(1), purchase(1, None, ["item-1"], at_s=5)]),
        ("no_impression", [purchase(1, 7, ["item-1"], at_s=5)]),
        ("too_late", [impression(1), purchase(1, 1, ["item-1"], at_s=WINDOW_S + 5)]),
        ("no_link", [reversal(purchase(1, 1, ["item-1"]), 1, after_s=5)]),
        ("no_link", [whole_reversal(purchase(1, 1, ["item-1"]), 1, after_s=5)]),
        ("not_in_list", [impression(1), click(1, 1, "item-1", at_s=5), purchase(1, 1, ["item-5"], at_s=50)]),
        ("no_link", [impression(1), purchase(1, 1, ["item-1"], client=CLIENTS[1], at_s=5)]),
        (
            "too_late",
            [impression(1), click(1, 1, "item-1", at_s=5), purchase(1, 1, ["item-1"], at_s=SETTINGS.attribution_s + 1)],
        ),
    ],
)
def test_an_order_line_that_joins_no_list_has_a_reason(reason: str, happened: list[Event]) -> None:
    result = run_events(happened)
    assert reasons(result) == [reason]
    outcomes = result.outcomes
    assert outcomes["produced"] == sum(outcomes[name] for name in ("joined", "late", "orphan"))


_TWICE = impression(1, items=["item-0", "item-1", "item-0"])


@pytest.mark.parametrize("query", [1, None])
@pytest.mark.parametrize("delay_ms", [0, MAX_DELAY_MS])
def test_an_order_line_is_on_the_place_of_the_last_click(query: int | None, delay_ms: int) -> None:
    order = purchase(1, query, ["item-0"], at_s=20)
    clicks = [
        click(1, 1, "item-0", at_s=5, position=1),
        click(2, 1, "item-0", at_s=10, position=3),
        click(3, 1, "item-0", at_s=30, position=1),
    ]
    sent = [send(_TWICE), send(order), *(send(one, delay_ms) for one in clicks)]
    session = last_session(run(Log.of([*sent, send(reversal(order, 1, after_s=50))])))
    assert session.column("clicks").tolist() == [2, 0, 1]
    assert session.column("orders").tolist() == [0, 0, 1]
    assert session.column("refund_minor").tolist() == [0, 0, 500]
    assert {line.item for line in session.lines} == {2}
    assert [event.item for event in session.events] == [0, 2, 2, 0, 2]


def test_an_order_line_without_a_click_is_on_the_first_place() -> None:
    session = last_session(run_events([_TWICE, purchase(1, 1, ["item-0"], at_s=20)]))
    assert session.column("orders").tolist() == [1, 0, 0]


def test_a_revision_names_the_place_of_the_order_line() -> None:
    happened: list[Event] = [
        _TWICE,
        click(1, 1, "item-0", at_s=5, position=3),
        purchase(1, 1, ["item-0"], at_s=WINDOW_S + 900),
    ]
    session = last_session(run_events(happened))
    assert (session.revision, session.column("changed").tolist()) == (1, [2])


def test_a_later_line_with_an_earlier_time_corrects_the_currency() -> None:
    unknown = impression(1, currency="XXX")
    late = purchase(1, 1, ["item-1"], at_s=10, currency="USD")
    first = purchase(2, 1, ["item-2"], at_s=5, currency="EUR")
    sent = [send(unknown), send(late), send(first, MAX_DELAY_MS), send(click(1, 1, "item-0", at_s=20))]
    result = run(Log.of(sent))
    session = last_session(result)
    assert (session.list_currency, session.currency) == ("XXX", "EUR")
    assert session.column("gross_minor").tolist() == [0, 0, 500]
    assert [line.currency for line in session.lines] == ["EUR", "USD"]
    assert result.join.counters["currency_differs"] == 0, "the line in US dollars was the only one when it came"


@pytest.mark.parametrize(("named", "bought", "differ"), [("EUR", "USD", 1), ("EUR", "XXX", 0), ("XXX", "USD", 0)])
def test_lines_in_another_currency_are_counted(named: str, bought: str, differ: int) -> None:
    result = run_events([impression(1, currency=named), purchase(1, 1, ["item-1"], at_s=5, currency=bought)])
    assert result.join.counters["currency_differs"] == differ
    assert last_session(result).column("gross_minor").tolist() == [0, 0 if differ else 500, 0]


def test_an_order_line_without_a_session_is_handed_on_with_its_money() -> None:
    order = purchase(1, None, ["item-1", "item-2"], at_s=5)
    result = run_events([impression(1), click(1, 1, "item-1", at_s=4), order, reversal(order, 1, after_s=9)])
    unknown = purchase(2, 7, ["item-3"], at_s=6)
    result = run_events(
        [impression(1), click(1, 1, "item-1", at_s=4), order, unknown, reversal(unknown, 2, after_s=9, action="cancel")]
    )
    start = order.event_ts
    assert result.outputs.unlinked() == {
        (CLIENTS[0], "t1", "1", ""): (*("purchase", "item-2", 2, 501, "EUR", "v1", start, "no_click", "test"),),
        (CLIENTS[0], "t2", "0", ""): (
            *("purchase", "item-3", 1, 500, "EUR", "v2", start + 1_000, "no_impression", "test"),
        ),
        (CLIENTS[0], "t2", "0", "r2"): (*("cancel", "item-3", 1, 500, "EUR", "r2", start + 10_000, "no_link", "test"),),
    }
    assert [line.transaction_id for line in last_session(result).lines] == ["t1"]


def test_a_refund_past_its_window_is_too_late() -> None:
    order = purchase(1, 1, ["item-1"], at_s=60)
    result = run_events([impression(1), order, reversal(order, 1, after_s=SETTINGS.refund_s + 1)])
    assert reasons(result) == ["too_late"]


def test_a_purchase_without_query_joins_the_last_click() -> None:
    result = run_events(
        [
            impression(1),
            impression(2, at_s=10),
            click(1, 1, "item-1", at_s=20),
            click(2, 2, "item-1", at_s=30),
            purchase(1, None, ["item-1", "item-2"], at_s=25),
        ]
    )
    assert reasons(result) == ["no_click"], "no client clicked item-2"
    assert [line.line_id for line in last_session(result).lines] == ["0"], "the click on q2 came after the purchase"
    assert last_session(result, "q2").lines == []
    assert [event.link for event in last_session(result).events] == ["query_id", "last_click"]


def _refunds(happened: list[Event], query: str = "q1") -> list[int]:
    return list(last_session(run_events(happened), query).column("refund_minor"))


ORDER = purchase(1, 1, ["item-0", "item-2"], at_s=60)
"""Lines of 500 and 501."""


@pytest.mark.parametrize(
    ("refunds", "expected"),
    [
        ([whole_reversal(ORDER, 1, after_s=600)], [500, 0, 501]),
        ([whole_reversal(ORDER, 1, after_s=600, action="cancel", total_minor=1_001)], [500, 0, 501]),
        ([whole_reversal(ORDER, 1, after_s=600, total_minor=1_490)], [500, 0, 501]),
        ([whole_reversal(ORDER, 1, after_s=-200)], [500, 0, 501]),
        ([whole_reversal(ORDER, 1, after_s=600), whole_reversal(ORDER, 1, after_s=600)], [500, 0, 501]),
        ([whole_reversal(ORDER, 1, after_s=600), whole_reversal(ORDER, 2, after_s=600)], [500, 0, 501]),
        ([reversal(ORDER, 1, after_s=300, amount_minor=200), whole_reversal(ORDER, 1, after_s=600)], [500, 0, 501]),
        ([reversal(ORDER, 1, after_s=900, amount_minor=200), whole_reversal(ORDER, 1, after_s=600)], [500, 0, 501]),
        ([reversal(ORDER, 1, after_s=300, amount_minor=200)], [200, 0, 0]),
    ],
    ids=[
        "all lines", "a cancellation", "another total", "before its purchase", "twice", "with two ids",
        "after a partial one", "before a partial one", "partial alone",
    ],
)  # fmt: skip
def test_a_refund_without_lines_is_one_of_all_lines(refunds: list[Event], expected: list[int]) -> None:
    happened = [impression(1), ORDER, *refunds]
    assert _refunds(happened) == expected
    result = run_events(happened)
    assert result.outcomes["joined"] + result.outcomes["duplicate"] == result.outcomes["produced"] == len(happened) + 1
    counted = recount([*Log.of(map(send, happened)).events(), *result.outputs.records], SETTINGS)
    assert {name: getattr(counted, name) for name in result.outcomes} == result.outcomes


def test_a_refund_without_lines_reaches_each_list_of_the_order() -> None:
    order = purchase(1, None, ["item-0", "item-1"], at_s=60)
    order.items[0].query_id, order.items[1].query_id = "q1", "q2"
    happened: list[Event] = [impression(1), impression(2, at_s=5), order, whole_reversal(order, 1, after_s=60)]
    assert (_refunds(happened), _refunds(happened, "q2")) == ([500, 0, 0], [0, 501, 0])


def test_a_refund_without_lines_leaves_lines_that_joined_no_list() -> None:
    order = purchase(1, None, ["item-0", "item-1"], at_s=60)
    happened: list[Event] = [impression(1), click(1, 1, "item-0", at_s=5), order, whole_reversal(order, 1, after_s=60)]
    assert _refunds(happened) == [500, 0, 0]
    assert reasons(run_events(happened)) == ["no_click"]


def test_a_refund_without_lines_past_its_window_is_too_late() -> None:
    result = run_events([impression(1), ORDER, whole_reversal(ORDER, 1, after_s=SETTINGS.refund_s + 1)])
    assert reasons(result) == ["too_late"]


def test_an_order_has_a_limited_number_of_lines() -> None:
    limits = replace(SETTINGS, max_list_events=2)
    lists = [impression(number, at_s=number, items=["item-0"]) for number in range(3)]
    lines = [purchase(number, number, ["item-0"], at_s=10 + number) for number in range(3)]
    for number, order in enumerate(lines):
        order.transaction_id, order.items[0].line_id = "t", str(number)
    result = run_events([*lists, *lines], limits)
    assert reasons(result) == ["evicted"]
