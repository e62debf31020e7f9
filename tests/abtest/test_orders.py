"""Orders of clients from their lines."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.orders import Order, OrderLine, distinct, of_session, of_unlinked, order
from stream.schemas.times import DAY_MS
from tests.harness.sessions import purchase, refund, unlinked


def line(line_id: str, amount_minor: int, **other: object) -> OrderLine:
    found = of_unlinked(unlinked("c1", "t1", amount_minor, line_id=line_id))
    return replace(found, **other)  # type: ignore[arg-type]


def back(line_id: str, amount_minor: int, refund_id: str = "r1", **other: object) -> OrderLine:
    return line(line_id, amount_minor, refund_id=refund_id, action="refund", **other)


def bought(lines: Sequence[OrderLine], refund_ms: int = DAY_MS) -> Order:
    found = order(lines, refund_ms=refund_ms)
    assert found is not None
    return found


def test_lines_of_sessions_and_others_are_one_order() -> None:
    found = bought([*of_session("c1", "EUR", [purchase("t1", 3, 500, event_ts=2_000)]), line("l9", 300)])
    assert found == Order(
        client_id="c1",
        transaction_id="t1",
        bought_ts=2_000,
        currency="EUR",
        gross_minor=800,
        refund_minor=0,
        linked_lines=1,
        unlinked_lines=1,
        foreign_lines=0,
    )


def test_a_line_that_joined_later_counts_once_as_the_session_has_it() -> None:
    (joined,) = of_session("c1", "EUR", [purchase("t1", 1, 700)])
    found = bought([line("l1", 500), joined, line("l1", 600)])
    assert (found.gross_minor, found.linked_lines, found.unlinked_lines) == (700, 1, 0)


@pytest.mark.parametrize(
    ("reversals", "returned"),
    [
        ([back("l1", 200)], 200),
        ([back("l1", 200), back("l1", 200, "r2")], 400),
        ([back("l1", 900)], 500),
        ([back("l1", 300), back("l1", 300, "r2")], 500),
        ([back("*", 0)], 800),
        ([back("*", 0), back("l1", 100)], 400),
        ([back("*", 0), back("l1", 100, "r2")], 800),
        ([back("l7", 100)], 0),
        ([back("l1", 200, event_ts=3_000 + DAY_MS)], 200),
        ([back("l1", 200, event_ts=3_001 + DAY_MS)], 0),
        ([back("l1", 200, currency="USD")], 0),
    ],
    ids=["part", "two", "too-much", "two-too-much", "all", "all-but-named", "all-after-part", "unknown", "in-time",
         "too-late", "foreign"],
)  # fmt: skip
def test_reversals_return_at_most_what_was_bought(reversals: list[OrderLine], returned: int) -> None:
    assert bought([line("l1", 500), line("l2", 300), *reversals]).refund_minor == returned


def test_a_reversal_in_a_session_has_its_own_line() -> None:
    own = of_session("c1", "EUR", [purchase("t1", 3, 500), refund("t1", 3, 200)])
    assert bought(own).refund_minor == 200


def test_reversals_without_a_purchase_are_no_order() -> None:
    assert order([back("l1", 5)], refund_ms=DAY_MS) is None
    assert order([], refund_ms=DAY_MS) is None


def test_amounts_in_another_currency_than_the_first_count_nowhere() -> None:
    found = bought([line("l1", 500), line("l2", 300, currency="USD", event_ts=3_500), line("l3", 20, currency="XXX")])
    assert (found.currency, found.gross_minor, found.foreign_lines) == ("EUR", 520, 1)


def test_text_that_a_database_refuses_is_replaced() -> None:
    assert of_unlinked(unlinked("c\0", "t\0")).identity == ("c\ufffd", "t\ufffd", "l1", "")


LINES = [
    line("l1", 500),
    line("l1", 400, event_ts=2_000),
    line("l2", 1),
    back("l1", 50),
    back("l1", 60),
    back("*", 0, "r3"),
]


@given(st.permutations(LINES), st.lists(st.sampled_from(LINES), max_size=5))
def test_order_and_copies_of_lines_change_nothing(lines: list[OrderLine], copies: list[OrderLine]) -> None:
    assert bought([*lines, *copies]) == bought(LINES)
    assert distinct(distinct([*lines, *copies])) == distinct(LINES)
