"""Google Analytics 4: Measurement Protocol payloads, and rows of its BigQuery export as JSON.

`index` counts from 0, `timestamp_micros` and `event_timestamp` are microseconds, `price` is the discounted price of one
unit. GA4 knows no query: a parameter named by `Options.query_name` links, on the event or on its items.

Source: https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference/events (events, items) and
https://support.google.com/analytics/answer/7029846 (BigQuery export schema).
"""

from collections.abc import Iterable, Mapping
from functools import partial

from stream.adapters import build, source, times
from stream.adapters.build import ClickName, Common, ConversionName, Product
from stream.adapters.results import Options, OurEvent, Result, collect
from stream.adapters.source import Fields, as_fields, rest_of, unmapped

NAME = "ga4"
_LIST = "view_item_list"
_CLICKS: Mapping[str, ClickName] = {"select_item": "click", "add_to_cart": "add_to_cart"}
_CONVERSIONS: Mapping[str, ConversionName] = {"purchase": "purchase", "refund": "refund"}
_EXPORTED_VALUES = ("string_value", "int_value", "double_value", "float_value")


def adapt(raw: bytes, options: Options) -> list[Result]:
    """Return the records of one payload of the Measurement Protocol, or of one exported row."""
    return collect(raw, _split, partial(_build, options=options))


def _split(raw: bytes) -> list[Fields]:
    payload = as_fields(source.parse(raw))
    if payload.has("event_name"):
        return [_exported(payload)]
    events = payload.rows("events")
    if not events:
        raise payload.missing("events", "event_name")
    shared = {name: payload.content.get(name) for name in ("client_id", "app_instance_id", "user_id")}
    sent = payload.content.get("timestamp_micros")
    return [Fields({**shared, "timestamp_micros": sent, **event.content}, event.path) for event in events]


def _exported(row: Fields) -> Fields:
    """Return a row of the export in the form of the Measurement Protocol."""
    params: dict[str, object] = {}
    for param in row.rows("event_params"):
        value = param.fields("value")
        found = next((value.content[name] for name in _EXPORTED_VALUES if value.has(name)), None)
        params[param.required("key")] = found
    order = row.fields("ecommerce")
    for name in ("transaction_id", "value"):
        if order.has(name):
            params.setdefault(name, order.get(name))
    if row.has("items"):
        params["items"] = row.get("items")
    return Fields(
        {
            "client_id": row.get("user_pseudo_id"),
            "user_id": row.get("user_id"),
            "timestamp_micros": row.get("event_timestamp"),
            "name": row.get("event_name"),
            "params": params,
        },
        row.path,
    )


def _build(event: Fields, *, options: Options) -> Iterable[OurEvent]:
    name = event.required("name")
    if name != _LIST and name not in _CLICKS and name not in _CONVERSIONS:
        raise unmapped(name, event.at("name"))
    params = event.fields("params")
    common = Common(
        source=NAME,
        event_ts=event.time("timestamp_micros", unit=times.MICROS),
        client_id=event.required("client_id", "app_instance_id"),
        content=source.canonical(event.content),
        session_id=params.text("session_id", "ga_session_id"),
        user_id=event.text("user_id"),
    )
    query_id = params.text(options.query_name)
    items = params.rows("items")
    products = [_product(item, options, is_order=name in _CONVERSIONS) for item in items]
    currencies = [params.text("currency"), *(item.text("currency") for item in items)]
    currency = build.currency_of(next(filter(None, currencies), None))
    value, transaction_id = params.number("value"), params.text("transaction_id")
    list_id = params.text("item_list_id")
    text = params.text("search_term") or list_id
    common.attributes = params.rest()
    if list_id is not None:
        common.attributes["item_list_id"] = list_id
    if kept := rest_of(items):
        common.attributes["items"] = kept
    if name == _LIST:
        return [
            build.impression(
                common, products, options, query_id=query_id, text=text, category=list_id, currency=currency
            )
        ]
    if name in _CLICKS:
        return build.clicks(common, _CLICKS[name], products, query_id)
    if transaction_id is None:
        raise params.missing("transaction_id")
    return [
        build.conversion(
            common,
            _CONVERSIONS[name],
            products,
            transaction_id=transaction_id,
            currency=currency,
            value=value,
            query_id=query_id,
        )
    ]


def _product(item: Fields, options: Options, *, is_order: bool) -> Product:
    item.skip("quantity")
    position = item.position("index", base=0) or item.position("item_list_index", base=0)
    return Product(
        object_id=item.required("item_id"),
        path=item.path,
        price=item.number("price"),
        quantity=(item.count("quantity") if is_order else None) or 1,
        position=position,
        query_id=item.text(options.query_name),
    )
