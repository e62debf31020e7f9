"""Order lines: the list that each one joins, or the reason why it joins none."""

import pytest

from tests.laws.join_log import (
    CLIENTS,
    SETTINGS,
    Event,
    click,
    impression,
    purchase,
    reversal,
)
from tests.stream.join.runs import WINDOW_S, last_session, reasons, run_events


@pytest.mark.parametrize(
    ("reason", "happened"),
    [
        ("no_click", [impression(1), purchase(1, None, ["item-1"], at_s=5)]),
        ("no_impression", [purchase(1, 7, ["item-1"], at_s=5)]),
        ("too_late", [impression(1), purchase(1, 1, ["item-1"], at_s=WINDOW_S + 5)]),
        ("no_link", [reversal(purchase(1, 1, ["item-1"]), 1, after_s=5)]),
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
