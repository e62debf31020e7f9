"""Our records from what the sources have in common: who, when, which products, which order.

Ids that a source lacks are hashes of its fields, so a payload that is sent again gives records that are known.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from stream.adapters.results import Options
from stream.errors import SchemaError
from stream.schemas import identity, money
from stream.schemas.events import ALL_LINES, Click, Conversion, Impression, OrderLine, Query, ShownItems

ConversionName = Literal["purchase", "cancel", "refund"]
ClickName = Literal["click", "add_to_cart"]
_MAX_ID = 64


@dataclass(slots=True, kw_only=True)
class Common:
    """Fields of every record.

    Attributes:
        source: Name of the format.
        event_ts: Time at the source.
        client_id: Who.
        content: The source's fields as canonical text; what the ids are hashed of.
        own_id: The source's id of the event, where it has one.
        session_id: The browsing visit.
        user_id: The account.
        attributes: What has no place in our schema.
    """

    source: str
    event_ts: int
    client_id: str
    content: str
    own_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    attributes: dict[str, object] = field(default_factory=dict)

    def event_id(self, part: int = 0) -> str:
        """Return the id of the record; `part` tells the records of one source event apart."""
        if self.own_id is None:
            return identity.event_id(max(self.event_ts, 0), self.source, self.client_id, self.content, part)
        if part or len(self.own_id) > _MAX_ID:
            return identity.event_id(max(self.event_ts, 0), self.source, self.own_id, part)
        return self.own_id


@dataclass(slots=True, kw_only=True)
class Product:
    """A product of a list, a click or an order.

    Attributes:
        object_id: Its id.
        path: Where it stands in the source.
        price: Price of one unit.
        total: Amount of all units of an order line; used where the price of one unit is absent.
        quantity: Units.
        position: Counted from 1.
        query_id: The query that showed it, where the source says so.
        score: What ranked it.
    """

    object_id: str
    path: str = "$"
    price: Decimal | None = None
    total: Decimal | None = None
    quantity: int = 1
    position: int | None = None
    query_id: str | None = None
    score: Decimal | None = None


def impression(
    common: Common,
    products: Sequence[Product],
    options: Options,
    *,
    query_id: str | None,
    text: str | None = None,
    category: str | None = None,
    currency: str | None = None,
    page: int | None = None,
    total_hits: int | None = None,
    ranks: list[int] | None = None,
    is_part: bool = False,
) -> Impression:
    """Return a list as shown: by position where every product has one of its own, else as the source lists it.

    The incoming order of a list that others ranked is unknown: it is the shown order, or `ranks` where products of the
    list as returned are left out. Without a currency prices are 0. Positions other than 1 to n make the list a part of
    one; so does `is_part`.

    Raises:
        SchemaError: If a price cannot be one.
    """
    if not products:
        raise SchemaError("missing_field", "a list of no products cannot be joined")
    currency = currency or options.currency
    shown = list(products)
    positions = _positions(shown)
    if positions is not None:
        shown.sort(key=lambda product: product.position or 0)
    if not is_part and positions == list(range(1, len(shown) + 1)):
        positions = None
    event_id = common.event_id()
    scores = [float(product.score) for product in shown if product.score is not None]
    return Impression(
        event_id=event_id,
        event_ts=common.event_ts,
        client_id=common.client_id,
        session_id=common.session_id,
        user_id=common.user_id,
        source=common.source,
        attributes=common.attributes or None,
        query_id=short(query_id) if query_id else short(f"q-{event_id}"),
        query=Query(
            hash=identity.query_hash(text or "", options.query_hash_key),
            category=category,
            page=page or 1,
            total_hits=total_hits,
        ),
        currency=currency or money.NO_CURRENCY,
        items=ShownItems(
            object_id=[product.object_id for product in shown],
            rank_in=ranks or positions or list(range(1, len(shown) + 1)),
            position=positions,
            price_minor=[_price(product, currency) for product in shown],
            score=scores if len(scores) == len(shown) else None,
        ),
    )


def _positions(products: Sequence[Product]) -> list[int] | None:
    """Return the positions of products in order, or None unless each has one of its own."""
    known = {product.position for product in products if product.position is not None}
    return sorted(known) if len(known) == len(products) else None


def clicks(common: Common, name: ClickName, products: Sequence[Product], query_id: str | None) -> list[Click]:
    """Return one click or cart addition per product."""
    if not products:
        raise SchemaError("missing_field", f"a {name} of no product")
    return [
        Click(
            event_id=common.event_id(part),
            event_ts=common.event_ts,
            client_id=common.client_id,
            session_id=common.session_id,
            user_id=common.user_id,
            source=common.source,
            attributes=common.attributes or None,
            action_name=name,
            query_id=_linked(product.query_id or query_id),
            object_id=product.object_id,
            position=product.position,
        )
        for part, product in enumerate(products)
    ]


def conversion(
    common: Common,
    name: ConversionName,
    products: Sequence[Product],
    options: Options,
    *,
    transaction_id: str | None,
    currency: str | None,
    value: Decimal | None = None,
    query_id: str | None = None,
    refund_id: str | None = None,
    is_free: bool = False,
) -> Conversion:
    """Return an order, or its refund or cancellation.

    A line is named by its product, so that a refund of some lines finds them. Where the price of a unit is missing, the
    amount of the line is used, or the order's total where that is the only line. A refund or cancellation of a known
    order that names no lines is one of all its lines; its currency may be unknown.

    Args:
        common: Who and when.
        name: What happened.
        products: The lines.
        options: Settings of the shop.
        transaction_id: The order; hashed from the source's fields where it has none.
        currency: Of all amounts; where the source names none, that of the options.
        value: Total of the order.
        query_id: The query of all lines that name none.
        refund_id: Tells two refunds of one line apart.
        is_free: Take missing money as 0, for sources that have no field for it.

    Raises:
        SchemaError: If lines or money are missing.
    """
    is_whole = not products and name != "purchase" and transaction_id is not None
    if not products and not is_whole:
        raise SchemaError("missing_field", f"a {name} that names no lines cannot be counted")
    currency = currency or options.currency
    if currency is None:
        if not is_free and not is_whole:
            raise SchemaError("missing_field", f"a {name} needs its currency")
        currency, value = money.NO_CURRENCY, None
    seen: Counter[str] = Counter()
    lines = []
    for product in products:
        seen[product.object_id] += 1
        number = seen[product.object_id]
        lines.append(
            OrderLine(
                line_id=short(product.object_id if number == 1 else f"{product.object_id}#{number}"),
                object_id=product.object_id,
                quantity=product.quantity,
                amount_minor=_amount(product, currency, value if len(products) == 1 else None, is_free=is_free),
                query_id=_linked(product.query_id),
            )
        )
    if is_whole:
        total = 0 if value is None else money.to_minor(value, currency)
        lines.append(OrderLine(line_id=ALL_LINES, object_id=ALL_LINES, quantity=1, amount_minor=total))
    event_id = common.event_id()
    return Conversion(
        event_id=event_id,
        event_ts=common.event_ts,
        client_id=common.client_id,
        session_id=common.session_id,
        user_id=common.user_id,
        source=common.source,
        attributes=common.attributes or None,
        action_name=name,
        query_id=_linked(query_id),
        transaction_id=transaction_id or event_id,
        refund_id=refund_id,
        currency=currency,
        value_minor=None if value is None else money.to_minor(value, currency),
        items=lines,
    )


def currency_of(text: str | None) -> str | None:
    """Return a currency code in capitals.

    >>> currency_of("eur"), currency_of(None)
    ('EUR', None)
    """
    return None if text is None else text.upper()


def short(text: str) -> str:
    """Return an id of at most 64 characters: itself, or a hash of it."""
    return text if len(text) <= _MAX_ID else identity.digest(text).hex()


def _linked(query_id: str | None) -> str | None:
    return None if query_id is None else short(query_id)


def _price(product: Product, currency: str | None) -> int:
    if product.price is None or currency is None:
        return 0
    return money.to_minor(product.price, currency, product.path)


def _amount(product: Product, currency: str, total: Decimal | None, *, is_free: bool) -> int:
    if product.price is not None:
        if not product.price.is_finite():
            raise SchemaError("bad_value", f"expected a price, got {product.price} - at `{product.path}`")
        if currency == money.NO_CURRENCY:
            return 0
        return money.to_minor(money.line_total(product.price, product.quantity), currency, product.path)
    total = total if product.total is None else product.total
    if total is not None:
        return money.to_minor(total, currency, product.path)
    if is_free:
        return 0
    raise SchemaError("missing_field", f"Object missing required field `price` - at `{product.path}`")
