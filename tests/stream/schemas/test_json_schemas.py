"""The committed schemas are those of the code, and they accept and refuse what the decoder does."""

import json
from pathlib import Path

import jsonschema
import pytest

from stream.schemas import topics
from stream.schemas.events import encode
from stream.schemas.json_schemas import json_schema, json_schemas, write
from tests.laws.join_log import click, impression, purchase

FOLDER = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.mark.parametrize("name", json_schemas())
def test_the_committed_schema_is_current(name: str) -> None:
    assert (FOLDER / name).read_text() == json_schemas()[name], "run `make docs`"


def test_written_schemas_are_those_of_the_function(tmp_path: Path) -> None:
    assert {path.name: path.read_text() for path in write(tmp_path / "schemas")} == json_schemas()


@pytest.mark.parametrize(
    ("topic", "raw"),
    [
        (topics.IMPRESSIONS, encode(impression(1))),
        (topics.CLICKS, encode(click(1, 1, "item-1"))),
        (topics.CONVERSIONS, encode(purchase(1, 1, ["item-1"]))),
    ],
)
def test_our_records_fit_and_damaged_ones_do_not(topic: str, raw: bytes) -> None:
    schema, record = json_schema(topic), json.loads(raw)
    jsonschema.validate(record, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record | {"event_ts": -1}, schema)
    del record["client_id"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, schema)
