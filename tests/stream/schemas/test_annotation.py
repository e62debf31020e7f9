"""Records of judgements: what they hold, and what is refused by field and value."""

import json
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from stream.errors import SchemaError
from stream.schemas import topics
from stream.schemas.annotation import Judgement, annotation_of, decode, encode
from stream.schemas.identity import digest
from stream.schemas.json_schemas import json_schema

JUDGED = Judgement(
    query_id="q-1", item_id="i-1", grade=3, annotator="ann", seconds=2.5, page="p-1", budget="p30", num_items=24
)
MADE = annotation_of(JUDGED, 7)


def changed(**values: Any) -> bytes:
    return json.dumps(json.loads(encode(MADE)) | values).encode()


def test_a_record_is_read_as_it_was_written() -> None:
    assert decode(encode(MADE)) == MADE
    assert json.loads(encode(MADE))["schema_version"] == 1
    assert MADE.key == b'["q-1","i-1"]'
    assert decode(changed(colour="blue")) == MADE


def test_the_id_depends_on_every_part_of_the_judgement_and_not_on_the_clock() -> None:
    assert annotation_of(JUDGED, 8).event_id == MADE.event_id
    assert (MADE.event_ts, annotation_of(replace(JUDGED, event_ts=5), 7).event_ts) == (7, 5)
    others: list[dict[str, Any]] = [
        {"query_id": "q-2"},
        {"item_id": "i-2"},
        {"grade": 2},
        {"annotator": "bob"},
        {"seconds": 2.0},
        {"seconds": None},
        {"page": "p-2"},
        {"budget": "p10"},
        {"num_items": 25},
        {"event_ts": 7},
        {"session_partition": 0, "session_offset": 0},
        {"session_partition": 0, "session_offset": 1},
    ]
    ids = {annotation_of(replace(JUDGED, **other), 7).event_id for other in others}
    assert len(ids) == len(others)
    assert MADE.event_id not in ids


def test_a_judgement_without_the_place_of_its_session_keeps_the_id_that_it_had_before_the_fields_came() -> None:
    before = digest("q-1", "i-1", "3", "ann", "2.5", "p-1", "p30", "24", "None").hex()
    assert MADE.event_id == before
    assert b"session" not in encode(MADE)


@pytest.mark.parametrize(
    ("partition", "offset", "place"), [(0, 0, (0, 0)), (2, 7, (2, 7)), (None, 7, None), (2, None, None)]
)
def test_half_a_place_is_none(partition: int | None, offset: int | None, place: tuple[int, int] | None) -> None:
    made = annotation_of(replace(JUDGED, session_partition=partition, session_offset=offset), 7)
    assert decode(encode(made)).session_at == place


@pytest.mark.parametrize(
    ("raw", "reason", "detail"),
    [
        (changed(grade=10), "bad_value", "grade: Expected `int` <= 9, got 10"),
        (changed(grade=2.5), "bad_value", "grade: Expected `int`, got `float`, got 2.5"),
        (changed(seconds=-1), "bad_value", "seconds: Expected `float` >= 0.0, got -1"),
        (changed(annotator=""), "bad_value", 'annotator: Expected `str` of length >= 1, got ""'),
        (changed(session_offset=-1), "bad_value", "session_offset: Expected `int` >= 0, got -1"),
        (changed(num_items=0), "bad_value", "num_items: Expected `int` >= 1, got 0"),
        (changed(event_ts=None), "bad_value", "event_ts: Expected `int`, got `null`, got null"),
        (changed(schema_version=2), "schema_unknown", "schema_version: 2, known 1"),
        (b'{"query_id": "q"}', "bad_value", "Object missing required field"),
        (b"[1]", "bad_value", "Expected `object`, got `array`"),
        (b"{", "not_json", "Input data was truncated"),
        (b"\xff", "not_json", ""),
        (None, "not_json", "Input data was truncated"),
    ],
)
def test_what_is_refused_is_named(raw: bytes | None, reason: str, detail: str) -> None:
    with pytest.raises(SchemaError) as refused:
        decode(raw)
    assert refused.value.reason == reason
    assert detail in refused.value.detail


def test_the_published_schema_refuses_what_the_decoder_refuses() -> None:
    schema = json_schema(topics.ANNOTATIONS)
    jsonschema.validate(json.loads(encode(MADE)), schema)
    for value in ({"grade": 10}, {"num_items": 0}, {"event_ts": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(changed(**value)), schema)
