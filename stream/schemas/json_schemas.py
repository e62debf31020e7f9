"""JSON Schemas of the records on the topics, for those who write or read them without Shelfwise.

The schema of `sessions` describes its msgpack content; binary columns are little-endian (base64 in JSON).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from stream.schemas import session, topics
from stream.schemas.annotation import Annotation
from stream.schemas.events import Click, Conversion, Impression, Item, ModelVersionAnnouncement, Profile, Tick

RECORDS: Mapping[str, object] = {
    topics.IMPRESSIONS: Impression,
    topics.CLICKS: Click,
    topics.CONVERSIONS: Conversion,
    topics.TICKS: Tick,
    topics.SESSIONS: session.SessionsRecord,
    topics.ITEMS: Item,
    topics.PROFILES: Profile,
    topics.MODEL_VERSIONS: ModelVersionAnnouncement,
    topics.ANNOTATIONS: Annotation,
}


def json_schema(topic: str) -> dict[str, object]:
    """Return the JSON Schema of the records of a topic.

    >>> json_schema("clicks")["$ref"]
    '#/$defs/Click'
    """
    schema = msgspec.json.schema(RECORDS[topic], schema_hook=_anything)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _anything(kind: type) -> dict[str, object]:
    """Return the schema of the values of `attributes`, which are free."""
    if kind is object:
        return {"description": "any JSON value"}
    raise NotImplementedError(kind)


def json_schemas() -> dict[str, str]:
    """Return the file name and content of every published schema."""
    return {f"{topic}.json": json.dumps(json_schema(topic), indent=2, sort_keys=True) + "\n" for topic in RECORDS}


def write(folder: Path) -> list[Path]:
    """Write the published schemas into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in json_schemas().items():
        (folder / name).write_text(content)
        written.append(folder / name)
    return written
