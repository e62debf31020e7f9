"""Metarank: `ranking` is the list in shown order, `interaction` is what was done with it.

The id of the ranking is the query id, and an interaction names it in `ranking`. `item` and `user` events describe the
catalogue and the visitors; they have no counterpart among events. `fields` may carry `query`, `category` and `page` of
a ranking, and `price`, `currency`, `quantity`, `transaction_id` of an interaction; without them amounts are 0.

Source: https://docs.metarank.ai/reference/event-schema and its page on timestamp formats.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from stream.adapters import build, source
from stream.adapters.build import ClickName, Common, ConversionName, Product
from stream.adapters.results import Options, OurEvent, Result, collect
from stream.adapters.source import Fields, rest_of, unmapped

NAME = "metarank"
_CLICKS: Mapping[str, ClickName] = {"click": "click", "cart": "add_to_cart", "add_to_cart": "add_to_cart"}
_CONVERSIONS: Mapping[str, ConversionName] = {"purchase": "purchase", "refund": "refund", "cancel": "cancel"}


def adapt(raw: bytes, options: Options) -> list[Result]:
    """Return the record of one Metarank event."""
    return collect(raw, source.events, partial(_build, options=options))


def _build(event: Fields, *, options: Options) -> Iterable[OurEvent]:
    kind = event.required("event")
    if kind == "ranking":
        return [_ranking(event, options)]
    if kind == "interaction":
        return _interaction(event, options)
    raise unmapped(kind, event.at("event"))


def _ranking(event: Fields, options: Options) -> OurEvent:
    common, named = _common(event, "ranking"), _named(event)
    rows = event.rows("items")
    products = [
        Product(object_id=row.required("id"), path=row.path, score=row.number("relevancy"), price=row.number("price"))
        for row in rows
    ]
    query_id = event.required("id")
    currency, page = build.currency_of(named.text("currency")), named.count("page")
    text, category = named.text("query"), named.text("category")
    event.skip("fields")
    kept = rest_of(rows)
    common.attributes = event.rest() | named.rest() | ({"items": kept} if kept else {})
    return build.impression(
        common, products, options, query_id=query_id, text=text, category=category, currency=currency, page=page
    )


def _interaction(event: Fields, options: Options) -> Iterable[OurEvent]:
    name = event.required("type").lower().replace("-", "_")
    if name not in _CLICKS and name not in _CONVERSIONS:
        raise unmapped(name, event.at("type"))
    common, named = _common(event, "interaction"), _named(event)
    product = Product(object_id=event.required("item"), path=event.at("item"))
    query_id = event.text("ranking")
    event.skip("fields", "id")
    if name in _CLICKS:
        common.attributes = event.rest() | named.rest()
        return build.clicks(common, _CLICKS[name], [product], query_id)
    product.price = named.number("price")
    product.quantity = named.count("quantity") or 1
    currency = build.currency_of(named.text("currency"))
    transaction_id, refund_id = named.text("transaction_id", "order_id"), named.text("refund_id")
    common.attributes = event.rest() | named.rest()
    return [
        build.conversion(
            common,
            _CONVERSIONS[name],
            [product],
            options,
            transaction_id=transaction_id,
            currency=currency,
            query_id=query_id,
            refund_id=refund_id,
            is_free=True,
        )
    ]


def _named(event: Fields) -> Fields:
    """Return the list of `{name, value}` under `fields` as one object."""
    return Fields({row.required("name"): row.get("value") for row in event.rows("fields")}, event.at("fields"))


def _common(event: Fields, kind: str) -> Common:
    session_id = event.text("session")
    client_id = event.text("user") or session_id
    if client_id is None:
        raise event.missing("user", "session")
    # A shop may give an interaction the id of its request: the id alone would make two events one.
    same = [kind, event.required("id"), event.content.get("type"), event.content.get("item")]
    return Common(
        source=NAME,
        event_ts=event.time("timestamp"),
        client_id=client_id,
        content=source.canonical(same),
        session_id=session_id,
    )
