"""Amounts of money: decimals at a source, integer minor units in a record, text in a report; never a float between.

Source: ISO 4217:2015, list one, "minor unit" column.
"""

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal

from stream.errors import SchemaError

NO_CURRENCY = "XXX"
"""ISO 4217 code for "no currency involved": the currency of lists and orders whose source names none."""

CODE = "[A-Z]{3}"
"""Pattern of a code of ISO 4217."""

DEFAULT_EXPONENT = 2
EXPONENTS: Mapping[str, int] = {
    **dict.fromkeys(
        (
            *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"),
            *("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"),
        ),
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
"""Currency to the number of its decimals, for each currency whose minor unit is not a hundredth."""

_MAX_DIGITS = 16
_context = Context(prec=60, rounding=ROUND_HALF_EVEN)


def is_code(text: str) -> bool:
    """Return whether a text has the form of a code of ISO 4217.

    >>> is_code("XXX"), is_code("eur")
    (True, False)
    """
    return re.fullmatch(CODE, text) is not None


def is_known(currency: str) -> bool:
    """Return whether a code names a currency.

    >>> is_known("EUR"), is_known("XXX")
    (True, False)
    """
    return currency != NO_CURRENCY


def currency_code(text: str) -> str:
    """Return the code of a currency that a user has named.

    >>> currency_code("EUR")
    'EUR'

    Raises:
        ValueError: If the text is no code of ISO 4217, or the code for no currency.
    """
    if not is_code(text) or not is_known(text):
        raise ValueError(f"'{text}': expected three capital letters of ISO 4217, such as EUR")
    return text


def exponent(currency: str) -> int:
    """Return the number of decimals of a currency.

    >>> exponent("EUR"), exponent("JPY"), exponent("KWD"), exponent("CLF")
    (2, 0, 3, 4)
    """
    return EXPONENTS.get(currency, DEFAULT_EXPONENT)


def to_minor(amount: Decimal, currency: str, path: str = "$") -> int:
    """Return `amount` in minor units of the currency, with halves rounded to even.

    >>> to_minor(Decimal("19.99"), "EUR"), to_minor(Decimal("1200"), "XPF"), to_minor(Decimal("1.2345"), "KWD")
    (1999, 1200, 1234)

    Args:
        amount: Amount in major units.
        currency: Code of ISO 4217.
        path: Position of the amount in its document, for the message.

    Raises:
        SchemaError: If the amount is negative, not a finite number, or has more than 16 digits before the point.
    """
    if not amount.is_finite() or amount < 0 or amount.adjusted() >= _MAX_DIGITS:
        raise SchemaError("bad_value", f"expected an amount of at least 0, got {str(amount)[:40]} - at `{path}`")
    return int(_context.scaleb(amount, exponent(currency)).quantize(Decimal(1), context=_context))


def format_minor(minor: float, currency: str | None, *, more: int = 0) -> str:
    """Return minor units as text in major units, with the currency.

    Without a currency the number of decimals is unknown: the text gives the minor units.

    >>> format_minor(123456, "EUR"), format_minor(1200, "XPF"), format_minor(1234.5, "EUR", more=2)
    ('1,234.56 EUR', '1,200 XPF', '12.3450 EUR')
    >>> format_minor(1200, "XXX"), format_minor(5, None)
    ('1,200 minor units', '5 minor units')

    Args:
        minor: Amount in minor units; a mean may have a fraction.
        currency: Code of ISO 4217, or None if amounts of several currencies were found.
        more: Further decimals, for means.
    """
    if currency is None or not is_known(currency):
        return f"{Decimal(minor):,.{more}f} minor units"
    digits = exponent(currency)
    return f"{_context.scaleb(Decimal(minor), -digits):,.{digits + more}f} {currency}"


def line_total(price: Decimal, quantity: int) -> Decimal:
    """Return the total of an order line, in major units.

    >>> line_total(Decimal("0.1"), 3)
    Decimal('0.3')
    """
    return _context.multiply(price, Decimal(quantity))
