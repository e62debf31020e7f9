"""Each event kind of each source becomes the record written beside it; values are ours, shapes the documents'."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stream.adapters import FORMATS, Adapted, Options, Result, adapt
from stream.schemas import topics
from stream.schemas.events import Conversion, Impression

GOLDEN = Path(__file__).parent / "golden"
OPTIONS = Options(query_hash_key=b"golden")


def cases() -> list[Any]:
    return [
        pytest.param(path.stem, case, id=f"{path.stem}: {case['title']}")
        for path in sorted(GOLDEN.glob("*.json"))
        for case in json.loads(path.read_text())
    ]


def raw_of(case: dict[str, Any]) -> bytes:
    source = case["source"]
    return source.encode() if isinstance(source, str) else json.dumps(source).encode()


def plain(result: Result) -> dict[str, object]:
    if isinstance(result, Adapted):
        return {"topic": result.topic, "key": result.key.decode(), "record": json.loads(result.value)}
    return {"reason": result.reason, "detail": result.detail}


@pytest.mark.parametrize(("name", "case"), cases())
def test_a_source_event_becomes_its_record(name: str, case: dict[str, Any]) -> None:
    adapted, rejected = adapt(name, raw_of(case), OPTIONS)
    assert [*map(plain, adapted), *map(plain, rejected)] == case["expected"]


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"shelfwise"}))
def test_every_kind_of_record_has_a_case(name: str) -> None:
    expected = [one for case in json.loads((GOLDEN / f"{name}.json").read_text()) for one in case["expected"]]
    kinds = {(one["topic"], one["record"].get("action_name", "impression")) for one in expected if "record" in one}
    assert kinds >= {
        (topics.IMPRESSIONS, "impression"),
        (topics.CLICKS, "click"),
        (topics.CLICKS, "add_to_cart"),
        (topics.CONVERSIONS, "purchase"),
    }
    assert {one["reason"] for one in expected if "reason" in one} >= {"unmapped"}


@pytest.mark.parametrize(("name", "case"), cases())
def test_no_text_of_a_query_and_no_address_is_kept(name: str, case: dict[str, Any]) -> None:
    adapted, _ = adapt(name, raw_of(case), OPTIONS)
    for result in adapted:
        kept = result.value.decode().lower()
        assert "blue lamp" not in kept
        assert "192.0.2.7" not in kept
        assert "https://" not in kept


@pytest.mark.parametrize(("name", "case"), cases())
def test_the_order_of_keys_and_white_space_do_not_matter(name: str, case: dict[str, Any]) -> None:
    if isinstance(case["source"], str):
        return

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(one) for one in value] if isinstance(value, list) else value

    again = json.dumps(turned(case["source"]), indent=3).encode()
    ids = [r.record.event_id for r in adapt(name, raw_of(case), OPTIONS)[0]]
    assert [r.record.event_id for r in adapt(name, again, OPTIONS)[0]] == ids


@pytest.mark.parametrize(("currency", "value", "amount"), [("EUR", 20, 2_000), ("EUR", None, 0), (None, 20, 0)])
def test_a_refund_without_lines_is_one_of_all_lines(currency: str | None, value: int | None, amount: int) -> None:
    params = {"transaction_id": "T", "currency": currency, "value": value}
    event = {
        "client_id": "c",
        "timestamp_micros": 1_767_571_200_000_000,
        "events": [{"name": "refund", "params": params}],
    }
    (refund,), rejected = adapt("ga4", json.dumps(event).encode())
    assert rejected == []
    assert isinstance(refund.record, Conversion)
    assert [(line.line_id, line.object_id, line.amount_minor) for line in refund.record.items] == [("*", "*", amount)]
    assert refund.record.currency == (currency or "XXX")


@pytest.mark.parametrize(
    ("name", "title", "named"),
    [
        ("segment", "a list", None),
        ("ga4", "an exported search term and query id that are numbers", None),
        ("ga4", "a list, ordered by index", "USD"),
        ("ubi", "a query with its hits is an impression", None),
        ("ubi", "a purchase without money", None),
        ("ubi", "a purchase with money", "JPY"),
        ("metarank", "a purchase without money", None),
        ("segment", "an order without a currency", None),
    ],
)
def test_a_list_or_order_without_a_currency_takes_that_of_the_shop(name: str, title: str, named: str | None) -> None:
    case = next(case for case in json.loads((GOLDEN / f"{name}.json").read_text()) if case["title"] == title)
    (result,), rejected = adapt(name, raw_of(case), Options(currency="CHF"))
    assert rejected == []
    assert isinstance(result.record, (Impression, Conversion))
    assert result.record.currency == (named or "CHF")


def test_prices_of_a_list_are_in_the_currency_of_the_shop() -> None:
    case = next(case for case in json.loads((GOLDEN / "segment.json").read_text()) if case["title"] == "a list")
    (result,), _ = adapt("segment", raw_of(case), Options(currency="KWD"))
    assert isinstance(result.record, Impression)
    assert result.record.items.price_minor == [24_000, 19_990]


def test_a_copy_of_a_snowplow_event_keeps_its_id() -> None:
    cases = json.loads((GOLDEN / "snowplow.json").read_text())
    source = next(case["source"] for case in cases if case["title"] == "a click on a list without a link")
    copy = {
        **source,
        "collector_tstamp": "2026-01-05T00:07:03.100Z",
        "derived_tstamp": "2026-01-05T00:00:01.262Z",
        "user_ipaddress": "192.0.2.8",
    }
    (first,), (second,) = (adapt("snowplow", json.dumps(event).encode())[0] for event in (source, copy))
    assert first.record.event_id == second.record.event_id
    assert first.record.event_id.startswith(source["event_id"])


def test_the_documentation_has_a_column_for_every_format() -> None:
    """The page and the command's choices follow the registry, so that a new format is complete with its entry there."""
    page = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
    header = next(line for line in page.splitlines() if line.startswith("| ours |"))
    assert set(re.findall(r"`(\w+)`", header)) == set(FORMATS) - {"shelfwise"}
