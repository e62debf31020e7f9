"""Money from a source's decimals to stored minor units and to the text of a report."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.adapters import adapt
from stream.errors import SchemaError
from stream.schemas import decode, money

# The currencies of ISO 4217 whose minor unit is not a hundredth, written a second time on purpose.
ISO_4217 = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
CASES = [(code, digits) for digits, codes in ISO_4217.items() for code in codes.split()]


def test_the_table_is_that_of_iso_4217() -> None:
    assert dict(CASES) == dict(money.EXPONENTS)


@pytest.mark.parametrize(("currency", "digits"), [*CASES, ("EUR", 2), ("USD", 2), ("CNY", 2)])
def test_an_order_is_shown_as_its_source_wrote_it(currency: str, digits: int) -> None:
    """Parse, store and show: 1,200 XPF must not come out as 12.00."""
    price = "1200" + "." * (digits > 0) + "1234"[:digits]
    order = {
        "type": "track",
        "event": "Order Completed",
        "anonymousId": "c1",
        "timestamp": "2026-01-05T00:00:00Z",
        "properties": {
            "order_id": "o1",
            "currency": currency,
            "total": price,
            "products": [{"product_id": "p1", "price": price, "quantity": 1}],
        },
    }
    [result], _ = adapt("segment", json.dumps(order).encode())
    stored = decode.conversion(result.value)
    shown = f"1,200{price[4:]} {currency}"
    assert money.format_minor(stored.items[0].amount_minor, stored.currency) == shown
    assert stored.value_minor is not None
    assert money.format_minor(stored.value_minor, stored.currency) == shown


@given(st.integers(0, 2**53), st.sampled_from([code for code, _ in CASES] + ["EUR"]))
def test_minor_units_survive_show_and_parse(minor: int, currency: str) -> None:
    amount, _, code = money.format_minor(minor, currency).partition(" ")
    assert (money.to_minor(Decimal(amount.replace(",", "")), currency), code) == (minor, currency)


@pytest.mark.parametrize("currency", [None, money.NO_CURRENCY])
def test_money_without_a_currency_shows_none(currency: str | None) -> None:
    assert money.format_minor(1200, currency) == "1,200 minor units"
    assert money.format_minor(12.5, currency, more=2) == "12.50 minor units"


@pytest.mark.parametrize("amount", ["-0.01", "NaN", "Infinity", "1e16"])
def test_an_impossible_amount_is_refused(amount: str) -> None:
    with pytest.raises(SchemaError, match=r"at `\$\.price`"):
        money.to_minor(Decimal(amount), "EUR", "$.price")
