"""Labels are sets: order, repetition and grouping change nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.join import labels
from stream.join.labels import Deal, Labels, Merge, Touch
from stream.schemas import session


def _touch(number: int, item: int = 0, *, ts: int = 100, offset: int | None = None, action: str = "click") -> Touch:
    return Touch(f"c{number}", action, item, ts, ts + 1, number if offset is None else offset, "query_id")


def _deal(number: int, item: int = 0, *, action: str = "purchase", amount: int = 500, currency: str = "EUR") -> Deal:
    refund_id = "" if action == "purchase" else f"r{number}"
    return Deal(
        f"v{number}", f"t{number}", "0", refund_id, action, item, 2, amount, currency, 200, 201, number, "last_click"
    )


def _all(touches: list[Touch], deals: list[Deal]) -> Labels:
    merged = labels.empty()
    for touch in touches:
        merged.merge_touch(touch)
    for deal in deals:
        merged.merge_deal(deal)
    return merged


_touches = st.builds(
    lambda number, ts, offset: _touch(number, ts=ts, offset=offset),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 9),
)


@settings(max_examples=200, derandomize=True)
@given(st.lists(_touches, unique_by=lambda t: t.offset), st.randoms(use_true_random=False), st.integers(0, 5))
def test_merging_is_commutative_associative_and_idempotent(touches: list[Touch], random: "object", cut: int) -> None:
    shuffled = sorted(touches, key=lambda t: (t.offset * 7 + cut) % 10)
    one, other = _all(touches, []), _all(shuffled, [])
    times = {key: touch.event_ts for key, touch in one.touches.items()}
    assert times == {key: touch.event_ts for key, touch in other.touches.items()}
    parts = _all(touches[:cut], []).union(_all(touches[cut:], []))
    assert {key: touch.event_ts for key, touch in parts.touches.items()} == times
    assert labels.label_key(one) == labels.label_key(other) == labels.label_key(one.union(one))


def test_verdicts() -> None:
    merged = labels.empty()
    assert merged.merge_touch(_touch(1, ts=100, offset=5)) is Merge.ADDED
    assert merged.merge_touch(_touch(1, ts=100, offset=5)) is Merge.REPEATED
    assert merged.merge_touch(_touch(1, ts=100, offset=6)) is Merge.DUPLICATE
    assert merged.merge_touch(_touch(1, ts=99, offset=7)) is Merge.REPLACED
    assert merged.merge_deal(_deal(1)) is Merge.ADDED
    assert merged.merge_deal(_deal(1)) is Merge.REPEATED
    assert len(merged) == 2


def test_columns() -> None:
    merged = _all(
        [_touch(1, 1, ts=150), _touch(2, 1, ts=120), _touch(3, 0, ts=90), _touch(4, 2, action="add_to_cart")],
        [_deal(1, 1), _deal(2, 1), _deal(3, 1, action="refund", amount=300), _deal(4, 2, currency="USD")],
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


def test_untouched_lists_have_the_columns_of_no_labels() -> None:
    assert labels.no_columns(3) == labels.columns(labels.empty(), n=3, impression_ts=0, currency="EUR")


def test_huge_counts_stay_in_their_columns() -> None:
    merged = _all([], [Deal(f"v{i}", f"t{i}", "0", "", "purchase", 0, 1_000_000, 2**53, "EUR", 1, 1, i, "x")
                       for i in range(5_000)])  # fmt: skip
    columns = labels.columns(merged, n=1, impression_ts=0, currency="EUR")
    assert session.unpack("units", columns["units"]).tolist() == [2**32 - 1]
    assert session.unpack("gross_minor", columns["gross_minor"]).tolist() == [2**63 - 1]
