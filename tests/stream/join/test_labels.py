"""Labels: a set under any order, repetition and grouping of merges, and the columns derived from it."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.join import labels
from stream.join.labels import ClickLabel, Labels, MergeResult, OrderLineLabel
from stream.schemas import session


def _click(
    number: int, item: int = 0, *, ts: int = 100, offset: int | None = None, action: str = "click"
) -> ClickLabel:
    return ClickLabel(f"c{number}", action, item, ts, ts + 1, number if offset is None else offset, "query_id")


def _line(
    number: int, item: int = 0, *, action: str = "purchase", amount: int = 500, currency: str = "EUR"
) -> OrderLineLabel:
    refund_id = "" if action == "purchase" else f"r{number}"
    return OrderLineLabel(
        f"v{number}", f"t{number}", "0", refund_id, action, item, 2, amount, currency, 200, 201, number, "last_click"
    )


def _all(clicks: list[ClickLabel], lines: list[OrderLineLabel]) -> Labels:
    merged = labels.empty()
    for click in clicks:
        merged.merge(click)
    for line in lines:
        merged.merge(line)
    return merged


_clicks = st.builds(
    lambda number, ts, offset: _click(number, ts=ts, offset=offset),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 9),
)


@pytest.mark.no_cover
@settings(max_examples=200)
@given(st.lists(_clicks, unique_by=lambda t: t.offset), st.data(), st.integers(0, 5))
def test_merging_is_commutative_associative_and_idempotent(
    clicks: list[ClickLabel], data: st.DataObject, cut: int
) -> None:
    shuffled = data.draw(st.permutations(clicks))
    one, other = _all(clicks, []), _all(shuffled, [])
    times = {key: click.event_ts for key, click in one.clicks.items()}
    assert times == {key: click.event_ts for key, click in other.clicks.items()}
    parts = _all(clicks[:cut], []).union(_all(clicks[cut:], []))
    assert {key: click.event_ts for key, click in parts.clicks.items()} == times
    assert labels.label_key(one) == labels.label_key(other) == labels.label_key(one.union(one))


def test_the_result_of_a_merge() -> None:
    merged = labels.empty()
    assert merged.merge(_click(1, ts=100, offset=5)) is MergeResult.ADDED
    assert merged.merge(_click(1, ts=100, offset=5)) is MergeResult.REPEATED
    assert merged.merge(_click(1, ts=100, offset=6)) is MergeResult.DUPLICATE
    assert merged.merge(_click(1, ts=99, offset=7)) is MergeResult.REPLACED
    assert merged.merge(_line(1)) is MergeResult.ADDED
    assert merged.merge(_line(1)) is MergeResult.REPEATED
    assert len(merged) == 2


def test_columns_count_clicks_orders_and_money() -> None:
    merged = _all(
        [_click(1, 1, ts=150), _click(2, 1, ts=120), _click(3, 0, ts=90), _click(4, 2, action="add_to_cart")],
        [_line(1, 1), _line(2, 1), _line(3, 1, action="refund", amount=300), _line(4, 2, currency="USD")],
    )
    columns = labels.columns(merged, n=3, impression_ts=100, currency="EUR")
    assert session.unpack("clicks", columns["clicks"]).tolist() == [1, 2, 0]
    assert session.unpack("carts", columns["carts"]).tolist() == [0, 0, 1]
    assert session.unpack("orders", columns["orders"]).tolist() == [0, 2, 1]
    assert session.unpack("units", columns["units"]).tolist() == [0, 4, 2]
    assert session.unpack("click_delay_ms", columns["click_delay_ms"]).tolist() == [0, 20, -1]
    assert session.unpack("order_delay_ms", columns["order_delay_ms"]).tolist() == [-1, 100, 100]
    assert session.unpack("gross_minor", columns["gross_minor"]).tolist() == [0, 1_000, 0]
    assert session.unpack("refund_minor", columns["refund_minor"]).tolist() == [0, 300, 0]


@pytest.mark.parametrize(
    ("named", "ordered", "expected"),
    [
        ("EUR", ["USD", "EUR"], ("EUR", [0, 500])),
        ("EUR", ["XXX"], ("EUR", [500])),
        ("XXX", ["USD"], ("USD", [500])),
        ("XXX", ["USD", "EUR", "USD"], ("USD", [500, 0, 500])),
        ("XXX", ["XXX", "EUR"], ("EUR", [500, 500])),
        ("XXX", ["XXX"], ("XXX", [500])),
        ("XXX", [], ("XXX", [])),
    ],
)
def test_a_list_of_unknown_currency_takes_that_of_its_first_order_line(
    named: str, ordered: list[str], expected: tuple[str, list[int]]
) -> None:
    lines = [_line(number, number, currency=currency) for number, currency in enumerate(ordered)]
    for arrived in permutations(lines):
        merged = _all([], list(arrived))
        currency = labels.currency(merged.order_lines.values(), named)
        columns = labels.columns(merged, n=len(lines), impression_ts=0, currency=currency)
        assert (currency, session.unpack("gross_minor", columns["gross_minor"]).tolist()) == expected


def test_lists_without_labels_share_their_columns() -> None:
    unlabelled = labels.no_columns(3)
    assert unlabelled == labels.columns(labels.empty(), n=3, impression_ts=0, currency="EUR")
    assert session.unpack("units", unlabelled["units"]).tolist() == [0, 0, 0]
    assert session.unpack("order_delay_ms", unlabelled["order_delay_ms"]).tolist() == [-1, -1, -1]


def test_huge_counts_stay_in_their_columns() -> None:
    merged = _all([], [OrderLineLabel(f"v{i}", f"t{i}", "0", "", "purchase", 0, 1_000_000, 2**53, "EUR", 1, 1, i, "x")
                       for i in range(5_000)])  # fmt: skip
    columns = labels.columns(merged, n=1, impression_ts=0, currency="EUR")
    assert session.unpack("units", columns["units"]).tolist() == [2**32 - 1]
    assert session.unpack("gross_minor", columns["gross_minor"]).tolist() == [2**63 - 1]
