"""Google Analytics 4: Measurement Protocol payloads, and rows of its BigQuery export as JSON.

`index` counts from 0, `timestamp_micros` and `event_timestamp` are microseconds, `price` is the discounted price of one
unit, `item_revenue` and `item_refund` the amount of a line. "(not set)" is GA4's null. GA4 knows no query: a parameter
named by `Options.query_name` links, on the event or on its items. The export keeps parameters of an item in its
`item_params`.

Source: https://developers.google.com/analytics/devguides/collection/protocol/ga4/reference/events (events, items) and
https://support.google.com/analytics/answer/7029846 (BigQuery export schema).
"""

from collections.abc import Iterable, Mapping
from functools import partial

from stream.adapters import build, source, times
from stream.adapters.build import ClickName, Common, ConversionName, Product
from stream.adapters.results import Options, OurEvent, Result, collect
from stream.adapters.source import Fields, rest_of, unmapped

NAME = "ga4"
_LIST = "view_item_list"
_CLICKS: Mapping[str, ClickName] = {"select_item": "click", "add_to_cart": "add_to_cart"}
_CONVERSIONS: Mapping[str, ConversionName] = {"purchase": "purchase", "refund": "refund"}
_NULL = "(not set)"
_TOTALS = {"purchase": "purchase_revenue", "refund": "refund_value"}
_EXPORTED_VALUES = ("string_value", "int_value", "double_value", "float_value")


def adapt(raw: bytes, options: Options) -> list[Result]:
    """Return the records of one payload of the Measurement Protocol, or of one exported row."""
    return collect(raw, _split, partial(_build, options=options))


def _split(raw: bytes) -> list[Fields]:
    return [event for payload in source.events(raw) for event in _events(payload)]


def _events(payload: Fields) -> list[Fields]:
    payload = Fields(_without_nulls(payload.content), payload.path)
    if payload.has("event_name"):
        return [_exported(payload)]
    events = payload.rows("events")
    if not events:
        raise payload.missing("events", "event_name")
    shared = {name: payload.content.get(name) for name in ("client_id", "app_instance_id", "user_id")}
    sent = payload.content.get("timestamp_micros")
    shared["timestamp_micros"] = sent
    return [
        Fields(
            {**shared, **event.content},
            event.path,
            alone={**shared, "events": [event.content]},
            alone_path="$.events[0]",
        )
        for event in events
    ]


def _exported(row: Fields) -> Fields:
    """Return a row of the export in the form of the Measurement Protocol."""
    params = _params(row, "event_params")
    order = row.fields("ecommerce")
    for name, exported in (("transaction_id", "transaction_id"), ("value", _TOTALS.get(str(row.get("event_name"))))):
        if exported is not None and params.get(name) is None and order.has(exported):
            params[name] = order.get(exported)
    if row.has("items"):
        params["items"] = [_item(item) for item in row.rows("items")]
    return Fields(
        {
            "client_id": row.get("user_pseudo_id"),
            "user_id": row.get("user_id"),
            "timestamp_micros": row.get("event_timestamp"),
            "name": row.get("event_name"),
            "params": params,
        },
        row.path,
        alone=row.content,
    )


def _item(item: Fields) -> dict[str, object]:
    """Return an item of the export with its own parameters as fields; fields of the schema win."""
    return _params(item, "item_params") | {
        name: value for name, value in item.content.items() if name != "item_params" and value is not None
    }


def _params(holder: Fields, name: str) -> dict[str, object]:
    params: dict[str, object] = {}
    for param in holder.rows(name):
        value = param.fields("value")
        found = next((value.content[kind] for kind in _EXPORTED_VALUES if value.has(kind)), None)
        params[param.required("key")] = found
    return params


def _without_nulls(content: Mapping[str, object]) -> dict[str, object]:
    return {name: _without_null(value) for name, value in content.items()}


def _without_null(value: object) -> object:
    if isinstance(value, dict):
        return _without_nulls(value)
    if isinstance(value, list):
        return [_without_null(inner) for inner in value]
    return None if value == _NULL else value


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
            options,
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
        total=item.number("item_revenue") if item.has("item_revenue") else item.number("item_refund"),
        quantity=(item.count("quantity") if is_order else None) or 1,
        position=position,
        query_id=item.text(options.query_name),
    )
