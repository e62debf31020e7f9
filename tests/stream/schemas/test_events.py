"""Fields that every record has."""

import json

import pytest
from msgspec import Struct

from stream.schemas.events import Click, Impression, Item, Query, ShownItems, Tick, encode

RECORDS: list[Struct] = [
    Impression(
        event_id="i-1",
        event_ts=1,
        client_id="c-1",
        source="test",
        query_id="q-1",
        query=Query(hash="h"),
        currency="EUR",
        items=ShownItems(object_id=["a"], rank_in=[1], price_minor=[1]),
    ),
    Click(event_id="k-1", event_ts=1, client_id="c-1", source="test", action_name="click", object_id="a"),
    Tick(partition=0, seq=0, worker="w", hw={}),
    Item(item_id="a", title="", price_minor=1, currency="EUR", updated_ts=1),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_the_version_is_written_even_when_it_is_the_default(record: Struct) -> None:
    assert json.loads(encode(record))["schema_version"] == 1


def test_the_action_of_an_impression_is_written() -> None:
    assert json.loads(encode(RECORDS[0]))["action_name"] == "impression"


def test_optional_fields_that_are_not_set_are_left_out() -> None:
    assert not {"session_id", "user_id", "lineage", "features"} & set(json.loads(encode(RECORDS[0])))
