"""Decimal amounts of a source as integer minor units, by the exponent of the currency; never through a float.

Source: ISO 4217, list one (currencies whose minor unit is not a hundredth).
"""

from decimal import ROUND_HALF_EVEN, Context, Decimal

from stream.errors import SchemaError

NO_CURRENCY = "XXX"
"""ISO 4217 for "no currency involved": lists and orders of sources that name none."""

_EXPONENTS = (
    dict.fromkeys(
        (
            *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"),
            *("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"),
        ),
        0,
    )
    | dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3)
    | dict.fromkeys(("CLF", "UYW"), 4)
)
_MAX_DIGITS = 16
_context = Context(prec=60, rounding=ROUND_HALF_EVEN)


def exponent(currency: str) -> int:
    """Return how many decimals the currency has.

    >>> exponent("EUR"), exponent("JPY"), exponent("KWD")
    (2, 0, 3)
    """
    return _EXPONENTS.get(currency, 2)


def minor(amount: Decimal, currency: str, path: str = "$") -> int:
    """Return `amount` in minor units, halves rounded to even.

    >>> minor(Decimal("19.99"), "EUR"), minor(Decimal("1200"), "JPY"), minor(Decimal("1.2345"), "KWD")
    (1999, 1200, 1234)

    Raises:
        SchemaError: If it is negative, no number, or beyond any price.
    """
    if not amount.is_finite() or amount < 0 or amount.adjusted() >= _MAX_DIGITS:
        raise SchemaError("bad_value", f"expected an amount of at least 0, got {str(amount)[:40]} - at `{path}`")
    return int(_context.scaleb(amount, exponent(currency)).quantize(Decimal(1), context=_context))


def times(price: Decimal, quantity: int) -> Decimal:
    """Return the total of a line.

    >>> times(Decimal("0.1"), 3)
    Decimal('0.3')
    """
    return _context.multiply(price, Decimal(quantity))
