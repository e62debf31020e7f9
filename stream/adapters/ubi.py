"""OpenSearch User Behavior Insights 1.3: queries are the lists, events are what was done with them.

A query with `query_response_hit_ids` is an impression: the list as returned. A null among the hits, as the plugin
writes for a document without the id field, is left out, and the others keep their `rank_in`. An `impression` event
with a `query_id` and an ordinal shows one object at that position and is a part of the list; another `impression` event
is `unmapped`. A part does not tell the text of its query and has the hash of the empty text. UBI has no money:
`event_attributes` may carry GA4's names (`transaction_id`, `currency`, `value`, `price`, `quantity`), else amounts are
0 without a currency.

Source: https://o19s.github.io/ubi/schema/1.3.0/event.schema.json and query.request.schema.json.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from stream.adapters import build, source
from stream.adapters.build import ClickName, Common, ConversionName, Product
from stream.adapters.results import Options, OurEvent, Result, collect
from stream.adapters.source import Fields, unmapped

NAME = "ubi"
_IMPRESSION = "impression"
_CLICKS: Mapping[str, ClickName] = {"click": "click", "click_through": "click", "add_to_cart": "add_to_cart"}
_CONVERSIONS: Mapping[str, ConversionName] = {"purchase": "purchase", "refund": "refund", "cancel": "cancel"}
_BULK_ACTIONS = frozenset({"index", "create", "update", "delete"})
_HITS = ("query_response_hit_ids", "query_response_object_ids")


def adapt(raw: bytes, options: Options) -> list[Result]:
    """Return the records of one UBI query or event, or of an array of them as collectors post it."""
    return collect(raw, source.events, partial(_build, options=options))


def _build(event: Fields, *, options: Options) -> Iterable[OurEvent]:
    if event.has("action_name"):
        return _event(event, options)
    if any(event.has(name) for name in (*_HITS, "user_query")):
        return [_query(event, options)]
    if len(event.content) == 1 and not _BULK_ACTIONS.isdisjoint(event.content):
        raise unmapped("an action line of a bulk file", event.path)
    raise event.missing("action_name", _HITS[0])


def _query(event: Fields, options: Options) -> OurEvent:
    name = next((name for name in _HITS if event.has(name)), _HITS[0])
    hits = event.get(name)
    if hits is None:
        raise unmapped("a query without hits", event.at(name))
    if not isinstance(hits, list):
        raise source.wrong("array", hits, event.at(name))
    products = [
        Product(
            object_id=Fields({"id": hit}, event.at(name)).required("id"),
            path=f"{event.at(name)}[{index}]",
            position=index + 1,
        )
        for index, hit in enumerate(hits)
        if hit is not None
    ]
    if not products:
        raise unmapped("a query without results", event.at(name))
    text, query_id = event.text("user_query"), event.text("query_id")
    common = _common(event)
    common.attributes = event.rest()
    ranks = [product.position or 1 for product in products]
    return build.impression(common, products, options, query_id=query_id, text=text, ranks=ranks)


def _event(event: Fields, options: Options) -> Iterable[OurEvent]:
    name = event.required("action_name")
    if name == _IMPRESSION:
        return [_shown(event, options)]
    if name not in _CLICKS and name not in _CONVERSIONS:
        raise unmapped(name, event.at("action_name"))
    query_id = event.text("query_id")
    common = _common(event)
    event.skip("message")
    details = event.fields("event_attributes")
    if details.content:
        product, rest = _product(details)
    else:
        raise event.missing("event_attributes")
    if name in _CLICKS:
        common.attributes = event.rest() | details.rest() | rest
        return build.clicks(common, _CLICKS[name], [product], query_id)
    currency = build.currency_of(details.text("currency"))
    product.price, product.quantity = details.number("price"), details.count("quantity") or 1
    value, transaction_id = details.number("value"), details.text("transaction_id", "order_id")
    refund_id = details.text("refund_id")
    common.attributes = event.rest() | details.rest() | rest
    return [
        build.conversion(
            common,
            _CONVERSIONS[name],
            [product],
            options,
            transaction_id=transaction_id,
            currency=currency,
            value=value,
            query_id=query_id,
            refund_id=refund_id,
            is_free=True,
        )
    ]


def _shown(event: Fields, options: Options) -> OurEvent:
    """Return the impression of one object, a part of the list of its query."""
    query_id, details = event.text("query_id"), event.fields("event_attributes")
    # Sources count ordinals from 0 or from 1.
    rank = details.fields("position").position("ordinal", base=0)
    if query_id is None or rank is None:
        raise unmapped(_IMPRESSION, event.at("action_name"))
    common = _common(event)
    event.skip("message")
    product, rest = _product(details, base=0)
    product.position = rank - 1
    common.attributes = event.rest() | details.rest() | rest
    return build.impression(common, [product], options, query_id=query_id, ranks=[rank], is_part=True)


def _product(details: Fields, base: int = 1) -> tuple[Product, dict[str, object]]:
    thing = details.fields("object")
    where = details.fields("position")
    product = Product(
        object_id=thing.required("object_id"), path=thing.path, position=where.position("ordinal", base=base)
    )
    rest: dict[str, object] = {
        name: kept for name, kept in (("object", thing.rest()), ("position", where.rest())) if kept
    }
    return product, rest


def _common(event: Fields) -> Common:
    return Common(
        source=NAME,
        event_ts=event.time("timestamp"),
        client_id=event.required("client_id"),
        content=source.canonical(event.content),
        session_id=event.text("session_id"),
        user_id=event.text("user_id"),
    )
