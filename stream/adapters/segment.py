"""Segment's e-commerce events, and those of RudderStack and PostHog, which follow the same specification.

Who: `anonymousId` (RudderStack too), in PostHog `properties.$device_id`, else `distinct_id`; `userId` where there is
nothing else. Positions count from 1. A property named by `Options.query_name` links, on the event or on its products.

Source: https://www.twilio.com/docs/segment/connections/spec/ecommerce/v2 and /common,
https://www.rudderstack.com/docs/event-spec/standard-events/common-fields/,
https://posthog.com/docs/data/event-spec/ecommerce-events and https://posthog.com/docs/api/capture.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from stream.adapters import build, source
from stream.adapters.build import ClickName, Common, ConversionName, Product
from stream.adapters.results import Options, OurEvent, Result, collect
from stream.adapters.source import Fields, rest_of, unmapped

NAME = "segment"
_LISTS = ("product list viewed", "viewed product category", "product list filtered")
_CLICKS: Mapping[str, ClickName] = {
    "product clicked": "click",
    "clicked product": "click",
    "product added": "add_to_cart",
    "added product": "add_to_cart",
}
_CONVERSIONS: Mapping[str, ConversionName] = {
    "order completed": "purchase",
    "completed order": "purchase",
    "order refunded": "refund",
    "refunded order": "refund",
    "order cancelled": "cancel",
}


def adapt(raw: bytes, options: Options) -> list[Result]:
    """Return the records of one event, or of a batch as these services' own endpoints take it."""
    return collect(raw, _split, partial(_build, options=options))


def _split(raw: bytes) -> list[Fields]:
    found: list[Fields] = []
    for payload in source.events(raw):
        found += payload.rows("batch") if payload.has("batch") else [payload]
    return found


def _build(event: Fields, *, options: Options) -> Iterable[OurEvent]:
    kind = event.text("type")
    if kind not in {None, "track", "capture"}:
        raise unmapped(str(kind), event.at("type"))
    name = event.required("event").strip().lower()
    if name not in _LISTS and name not in _CLICKS and name not in _CONVERSIONS:
        raise unmapped(name, event.at("event"))
    properties = event.fields("properties")
    common = _common(event, properties)
    query_id = properties.text(options.query_name)
    if name in _CLICKS:
        product = _product(properties, options, is_order=False)
        common.attributes = properties.rest()
        product.query_id = query_id
        return build.clicks(common, _CLICKS[name], [product], query_id)
    rows = properties.rows("products")
    products = [_product(row, options, is_order=name in _CONVERSIONS) for row in rows]
    currency = build.currency_of(properties.text("currency"))
    if name in _LISTS:
        category, list_id = properties.text("category"), properties.text("list_id")
        common.attributes = _attributes(properties, rows) | ({"list_id": list_id} if list_id else {})
        return [
            build.impression(
                common,
                products,
                options,
                query_id=query_id,
                text=properties.text("query") or list_id,
                category=category,
                currency=currency,
            )
        ]
    total, revenue = properties.number("total"), properties.number("revenue")
    transaction_id = properties.required("order_id")
    common.attributes = _attributes(properties, rows)
    return [
        build.conversion(
            common,
            _CONVERSIONS[name],
            products,
            options,
            transaction_id=transaction_id,
            currency=currency,
            value=total if revenue is None else revenue,
            query_id=query_id,
        )
    ]


def _common(event: Fields, properties: Fields) -> Common:
    context = event.fields("context")
    client_id = event.text("anonymousId") or properties.text("$device_id")
    return Common(
        source=NAME,
        event_ts=event.time("timestamp", "originalTimestamp", "sentAt"),
        client_id=client_id or event.text("distinct_id") or properties.text("distinct_id") or event.required("userId"),
        content=source.canonical({**event.content, "sentAt": None, "receivedAt": None}),
        own_id=event.text("messageId", "uuid"),
        session_id=properties.text("session_id", "$session_id") or context.text("sessionId"),
        user_id=event.text("userId") or properties.text("$user_id"),
    )


def _product(row: Fields, options: Options, *, is_order: bool) -> Product:
    row.skip("quantity")
    return Product(
        object_id=row.required("product_id", "sku", "id"),
        path=row.path,
        price=row.number("price"),
        quantity=(row.count("quantity") if is_order else None) or 1,
        position=row.position("position", base=1),
        query_id=row.text(options.query_name),
    )


def _attributes(properties: Fields, rows: list[Fields]) -> dict[str, object]:
    kept = rest_of(rows)
    return properties.rest() | ({"products": kept} if kept else {})
