"""Adapted events of each source through the join: the list, what was clicked on it and what was bought of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stream.adapters import adapt
from stream.schemas import topics
from tests.laws.join_log import CLIENTS, SETTINGS, Log, Sent, run

GOLDEN = Path(__file__).parent / "golden"
WINDOWS = replace(SETTINGS, attribution_s=86_400, refund_s=604_800)


def sent_of(name: str, client: str, titles: list[str]) -> list[Sent]:
    """Return the records of these cases, their client renamed to one of the partition under test."""
    cases = {case["title"]: case["source"] for case in json.loads((GOLDEN / f"{name}.json").read_text())}
    sent = []
    for title in titles:
        raw = json.dumps(cases[title]).replace(f'"{client}"', f'"{CLIENTS[0]}"').encode()
        adapted, rejected = adapt(name, raw)
        assert rejected == []
        for result in adapted:
            assert result.key == CLIENTS[0].encode()
            sent.append(Sent(result.topic, CLIENTS[0], result.value, result.record.event_ts))
    return sent


@pytest.mark.parametrize(
    ("name", "client", "titles", "gross", "link"),
    [
        (
            "ubi",
            "c-81",
            ["a query with its hits is an impression", "a click", "a purchase without money"],
            0,
            "query_id",
        ),
        (
            "ga4",
            "531.77",
            ["a list, ordered by index", "a click and a cart addition of two items in one payload", "a purchase"],
            0,  # the list is in US dollars and the order in Kuwaiti dinars
            "query_id",
        ),
        ("segment", "a-5", ["a list", "a click", "an order", "a refund"], 5997, "query_id"),
        (
            "snowplow",
            "d-71",
            ["a list, linked by its name", "a click on a list without a link", "a transaction", "a refund of one line"],
            3998,
            "inferred",
        ),
        ("metarank", "c-7", ["a ranking", "a click", "a purchase with money"], 5997, "query_id"),
    ],
)
def test_a_shop_of_this_source_has_labelled_sessions(
    name: str, client: str, titles: list[str], gross: int, link: str
) -> None:
    sent = sent_of(name, client, titles)
    # Sent twice: ids from the source's own fields make the copies duplicates.
    outputs = run(Log.of([*sent, *sent], settings=WINDOWS), settings=WINDOWS).outputs
    last = max(outputs.sessions(), key=lambda one: one.revision)
    at = last.item_id.index("lamp-3")
    assert last.column("clicks")[at] == 1
    assert last.column("orders")[at] >= 1
    assert last.column("gross_minor")[at] == gross
    assert link in {event.link for event in last.events}
    assert not outputs.dead_letters(topics.DEAD_LETTERS)
    if "refund" in titles[-1]:
        assert last.column("refund_minor")[at] == 1999


def exported(name: str, at_s: int, items: list[dict[str, object]], **params: object) -> dict[str, object]:
    """Return a row of GA4's export; texts, integers and fractions have the types that the export gives them."""
    kinds = {str: "string_value", int: "int_value", float: "double_value"}
    return {
        "event_name": name,
        "event_timestamp": str(1_767_571_200_000_000 + at_s * 1_000_000),
        "user_pseudo_id": CLIENTS[0],
        "event_params": [{"key": key, "value": {kinds[type(value)]: value}} for key, value in params.items()],
        "items": items,
    }


def measured(name: str, at_s: int, items: list[dict[str, object]], **params: object) -> dict[str, object]:
    """Return a payload of GA4's Measurement Protocol with an event of query `q`."""
    return {
        "client_id": CLIENTS[0],
        "timestamp_micros": 1_767_571_200_000_000 + at_s * 1_000_000,
        "events": [{"name": name, "params": {"query_id": "q", "items": items, **params}}],
    }


def track(name: str, message_id: str, **properties: object) -> dict[str, object]:
    """Return a track call of Segment."""
    at = f"2026-01-05T00:00:0{message_id[-1]}.000Z"
    call = {"type": "track", "event": name, "anonymousId": CLIENTS[0], "messageId": message_id, "timestamp": at}
    return {**call, "properties": properties}


def ubi(at_s: int, **fields: object) -> dict[str, object]:
    """Return a query or event of UBI."""
    return {"client_id": CLIENTS[0], "query_id": "q", "timestamp": f"2026-01-05T00:00:0{at_s}.000Z", **fields}


def shown(at_s: int, name: str, ordinal: int) -> dict[str, object]:
    """Return an impression event of UBI."""
    attributes = {"object": {"object_id": name, "object_id_field": "sku"}, "position": {"ordinal": ordinal}}
    return ubi(at_s, action_name="impression", event_attributes=attributes)


def snowplow(kind: str, at_s: int, product: str, *others: str) -> dict[str, object]:
    """Return an e-commerce action of Snowplow; all clicks have one event id."""
    vendor, at = "iglu:com.snowplowanalytics.snowplow.ecommerce", f"2026-01-05T00:00:0{at_s}.000Z"
    action = {
        "schema": f"{vendor}/snowplow_ecommerce_action/jsonschema/1-0-2",
        "data": {"type": kind, "name": "query_id=q"},
    }
    products = [
        {"schema": f"{vendor}/product/jsonschema/1-0-0", "data": {"id": name, "price": 5, "currency": "EUR"}}
        for name in (product, *others)
    ]
    event = {"event_id": f"e-{kind}", "domain_userid": CLIENTS[0], "derived_tstamp": at, "collector_tstamp": at}
    return {**event, "unstruct_event": {"data": action}, "contexts": {"data": products}}


@pytest.mark.parametrize(
    ("name", "payloads", "expected"),
    [
        pytest.param(
            "ga4",
            [
                exported("view_item_list", 0, [{"item_id": "pot"}, {"item_id": "urn"}], query_id="first"),
                exported("view_item_list", 60, [{"item_id": "pot"}, {"item_id": "jug"}], query_id="second"),
                exported(
                    "select_item",
                    90,
                    [{"item_id": "pot", "item_params": [{"key": "query_id", "value": {"string_value": "first"}}]}],
                ),
            ],
            {"first": {"clicks": [1, 0]}, "second": {"clicks": [0, 0]}},
            id="the link is a parameter of the item",
        ),
        pytest.param(
            "ga4",
            [
                exported(
                    "view_item_list", 0, [{"item_id": "saw"}, {"item_id": "file"}], query_id="q", search_term=4.75
                ),
                exported("select_item", 5, [{"item_id": "file"}], query_id="q"),
            ],
            {"q": {"clicks": [0, 1]}},
            id="the search term is a number",
        ),
        pytest.param(
            "ga4",
            [
                exported("view_item_list", 0, [{"item_id": "saw", "price": 12.5}], query_id="q", currency="EUR"),
                exported("select_item", 5, [{"item_id": "saw"}], query_id="q"),
                exported(
                    "purchase",
                    60,
                    [{"item_id": "saw", "quantity": "2", "item_revenue": 24.98}],
                    currency="EUR",
                    transaction_id="T",
                ),
            ],
            {"q": {"orders": [1], "units": [2], "gross_minor": [2498]}},
            id="the order has the revenue of its items",
        ),
        pytest.param(
            "ga4",
            [
                measured(
                    "view_item_list",
                    0,
                    [{"item_id": "saw", "index": 0}, {"item_id": "file", "index": 1}],
                    currency="EUR",
                ),
                measured(
                    "purchase",
                    60,
                    [{"item_id": "saw", "price": 12.5}, {"item_id": "file", "price": 3, "quantity": 2}],
                    currency="EUR",
                    value=18.5,
                    transaction_id="T",
                ),
                measured("refund", 600, [], currency="EUR", value=18.5, transaction_id="T"),
            ],
            {"q": {"gross_minor": [1250, 600], "refund_minor": [1250, 600], "orders": [1, 1]}},
            id="a full refund names no lines",
        ),
        pytest.param(
            "segment",
            [
                track(
                    "Product List Viewed",
                    "m-0",
                    query_id="q",
                    currency="EUR",
                    products=[{"product_id": "hat"}, {"product_id": "cap"}],
                ),
                track(
                    "Order Completed",
                    "m-2",
                    query_id="q",
                    order_id="o",
                    currency="EUR",
                    total=30,
                    products=[
                        {"product_id": "hat", "price": 20, "quantity": 1},
                        {"product_id": "cap", "price": 5, "quantity": 2},
                    ],
                ),
                track(
                    "Order Refunded",
                    "m-4",
                    order_id="o",
                    currency="EUR",
                    products=[{"product_id": "hat", "price": 5, "quantity": 1}],
                ),
                track("Order Cancelled", "m-6", order_id="o"),
            ],
            {"q": {"gross_minor": [2000, 1000], "refund_minor": [2000, 1000]}},
            id="a part of an order is refunded, and then the whole is cancelled",
        ),
        pytest.param(
            "segment",
            [
                track("Product List Viewed", "m-1", query_id="q", products=[{"product_id": "hat"}]),
                track("Product Clicked", "m-0", product_id="hat"),
            ],
            {"q": {"clicks": [1]}},
            id="the clock of the click is behind that of the list",
        ),
        pytest.param(
            "segment",
            [
                track("Product List Viewed", "m-0", query_id="q", products=[{"product_id": "hat"}]),
                track("Product List Filtered", "m-2", query_id="q-red", products=[{"product_id": "cap"}]),
                track("Product Clicked", "m-4", query_id="q-red", product_id="cap"),
                track("Product Clicked", "m-5", query_id="q", product_id="hat"),
            ],
            {"q": {"clicks": [1]}, "q-red": {"clicks": [1]}},
            id="a list and the same list filtered, each with its own query",
        ),
        pytest.param(
            "segment",
            [
                track("Product List Viewed", "m-0", query_id="q", products=[{"product_id": "hat"}]),
                track("Product List Filtered", "m-2", list_id="hats", products=[{"product_id": "cap"}]),
                track("Product Clicked", "m-4", product_id="cap"),
                track("Product Clicked", "m-5", product_id="hat"),
            ],
            {"q": {"clicks": [1]}, "q-m-2": {"clicks": [1]}},
            id="a filtered list without a query has one of its own, and clicks are inferred",
        ),
        pytest.param(
            "segment",
            [
                track(
                    "Product List Filtered",
                    "m-0",
                    query_id="q",
                    products=[{"product_id": "hat"}, {"product_id": "cap"}],
                ),
                track("Product Clicked", "m-5", query_id="q", product_id="cap", position=2),
            ],
            {"q": {"clicks": [0, 1]}},
            id="a filtered list",
        ),
        pytest.param(
            "snowplow",
            [
                snowplow("list_view", 0, "pen", "ink"),
                snowplow("list_click", 5, "pen"),
                snowplow("list_click", 6, "ink"),
            ],
            {"q": {"clicks": [1, 1]}},
            id="two clicks with one id",
        ),
        pytest.param(
            "ubi",
            [
                ubi(0, user_query="tea", query_response_hit_ids=["cup", None, "pot"]),
                [
                    ubi(
                        5,
                        action_name="click",
                        event_attributes={"object": {"object_id": "pot"}, "position": {"ordinal": 3}},
                    )
                ],
            ],
            {"q": {"clicks": [0, 1]}},
            id="a hit without an id and an array",
        ),
        pytest.param(
            "ga4",
            [
                measured("view_item_list", 0, [{"item_id": "mug", "price": 19.99}, {"item_id": "pot", "price": 45}]),
                measured("select_item", 5, [{"item_id": "mug"}]),
                measured(
                    "purchase",
                    60,
                    [{"item_id": "mug", "price": 19.99, "quantity": 2}],
                    transaction_id="T",
                    currency="EUR",
                    value=39.98,
                ),
            ],
            {"q": {"clicks": [1, 0], "orders": [1, 0], "units": [2, 0], "gross_minor": [3998, 0]}},
            id="a list without a currency",
        ),
        pytest.param(
            "segment",
            [
                track(
                    "Product List Viewed",
                    "m-0",
                    query_id="q",
                    list_id="deals_1",
                    category="Deals",
                    products=[
                        {"product_id": "p-1", "sku": "1-32", "name": "Game", "price": 19, "position": 1},
                        {"product_id": "p-2", "sku": "2-32", "name": "Cards", "price": 3, "position": 2},
                    ],
                ),
                track("Product Clicked", "m-5", query_id="q", product_id="p-1", sku="1-32", price=19, position=1),
                track(
                    "Order Completed",
                    "m-9",
                    order_id="o",
                    total=41.5,
                    revenue=38,
                    tax=3.5,
                    currency="USD",
                    products=[{"product_id": "p-1", "price": 19, "quantity": 2}],
                ),
            ],
            {"q": {"clicks": [1, 0], "orders": [1, 0], "gross_minor": [3800, 0]}},
            id="the list of the specification, which names no currency",
        ),
        pytest.param(
            "segment",
            [
                track(
                    "Product List Viewed",
                    "m-0",
                    query_id="q",
                    products=[
                        {"product_id": name, "position": at}
                        for at, name in enumerate(("shoe", "boot", "clog", "shoe"), start=1)
                    ],
                ),
                track("Product Clicked", "m-5", query_id="q", product_id="shoe", position=4),
            ],
            {"q": {"clicks": [0, 0, 0, 1]}},
            id="a product that stands twice in a list",
        ),
        pytest.param(
            "ubi",
            [
                ubi(0, user_query="tea", query_response_hit_ids=["cup", "pot"]),
                ubi(5, action_name="click", event_attributes={"object": {"object_id": "cup"}}),
                ubi(
                    9,
                    action_name="purchase",
                    event_attributes={
                        "object": {"object_id": "cup"},
                        "transaction_id": "t",
                        "currency": "EUR",
                        "price": 12.5,
                        "quantity": 2,
                        "value": 25,
                    },
                ),
            ],
            {"q": {"clicks": [1, 0], "orders": [1, 0], "gross_minor": [2500, 0]}},
            id="an order with money of a source without money",
        ),
        pytest.param(
            "ga4",
            [
                measured("view_item_list", 0, [{"item_id": f"i{at}", "index": at} for at in (0, 1, 2)]),
                measured("view_item_list", 20, [{"item_id": f"i{at}", "index": at} for at in (3, 4, 5)]),
                measured("select_item", 25, [{"item_id": "i4", "index": 4}]),
            ],
            {"q": {"clicks": [0, 0, 0, 0, 1, 0], "position": [1, 2, 3, 4, 5, 6]}},
            id="the second part of a scrolled list",
        ),
        pytest.param(
            "ga4",
            [
                measured("view_item_list", 40, [{"item_id": "oak", "index": 4}, {"item_id": "elm", "index": 5}]),
                measured("view_item_list", 20, [{"item_id": "fir", "index": 2}, {"item_id": "yew", "index": 3}]),
                measured("view_item_list", 0, [{"item_id": "ash", "index": 0}, {"item_id": "fig", "index": 1}]),
                measured("view_item_list", 20, [{"item_id": "fir", "index": 2}, {"item_id": "yew", "index": 3}]),
                measured("select_item", 25, [{"item_id": "yew", "index": 3}]),
                measured("select_item", 45, [{"item_id": "oak", "index": 4}]),
            ],
            {"q": {"clicks": [0, 0, 0, 1, 1, 0], "position": [1, 2, 3, 4, 5, 6]}},
            id="three parts of a list out of order, one of them twice",
        ),
        pytest.param(
            "ga4",
            [
                measured("view_item_list", 0, [{"item_id": "c", "index": 3}, {"item_id": "b", "index": 2}]),
                measured("view_item_list", 9, [{"item_id": "a", "index": 1}, {"item_id": "d", "index": 4}]),
                measured("select_item", 15, [{"item_id": "d", "index": 4}]),
            ],
            {"q": {"clicks": [0, 0, 0, 1]}},
            id="parts with an index from 1",
        ),
        pytest.param(
            "segment",
            [
                track("Product List Viewed", "m-0", query_id="q", products=[{"product_id": "hat", "position": 1}]),
                track("Product List Viewed", "m-1", query_id="q", products=[{"product_id": "cap", "position": 2}]),
                track("Product Clicked", "m-5", query_id="q", product_id="cap", position=2),
            ],
            {"q": {"clicks": [0, 1]}},
            id="a list in calls of one product",
        ),
        pytest.param(
            "ubi",
            [
                *(shown(0, name, at) for at, name in enumerate("abc")),
                ubi(
                    5,
                    action_name="click",
                    event_attributes={"object": {"object_id": "b"}, "position": {"ordinal": 1}},
                ),
            ],
            {"q": {"clicks": [0, 1, 0], "position": [0, 1, 2]}},
            id="a list as impression events with an ordinal from 0",
        ),
        pytest.param(
            "ubi",
            [
                ubi(0, user_query="tea", query_response_hit_ids=["a", "b", "c"]),
                *(shown(1, name, at) for at, name in enumerate("ab", start=1)),
                ubi(
                    5,
                    action_name="click",
                    event_attributes={"object": {"object_id": "b"}, "position": {"ordinal": 2}},
                ),
            ],
            {"q": {"clicks": [0, 1, 0]}},
            id="a query with hits, and impression events with an ordinal from 1",
        ),
    ],
)
def test_common_forms_of_a_source_join(
    name: str, payloads: list[Any], expected: dict[str, dict[str, list[int]]]
) -> None:
    sent = []
    for payload in payloads:
        adapted, rejected = adapt(name, json.dumps(payload).encode())
        assert rejected == []
        sent += [Sent(result.topic, CLIENTS[0], result.value, result.record.event_ts) for result in adapted]
    outputs = run(Log.of(sent, settings=WINDOWS), settings=WINDOWS).outputs
    last = {one.query_id: one for one in sorted(outputs.sessions(), key=lambda one: one.revision)}
    found = {query: {column: list(last[query].column(column)) for column in expected[query]} for query in expected}
    assert found == expected
    assert not outputs.dead_letters(topics.DEAD_LETTERS)
    assert not outputs.dead_letters(topics.UNJOINED)
