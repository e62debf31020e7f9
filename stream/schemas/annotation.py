"""The schema of the topic `annotations`: judgements of people on the items of a query's list.

Source: docs/annotation.md.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, field

from stream.errors import SchemaError
from stream.schemas.events import MAX_ITEMS, EventId, ItemId, QueryId, SchemaVersion, Timestamp
from stream.schemas.identity import digest
from stream.schemas.problems import Problem, problem

SCHEMA_VERSION: Final = 1
MAX_GRADE: Final = 9

# One digit, so that one key gives it.
Grade = Annotated[int, Meta(ge=0, le=MAX_GRADE)]
Label = Annotated[str, Meta(min_length=1, max_length=64)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Place = Annotated[int, Meta(ge=0)]
# No part of the id of a judgement that lacks them: those are older than the fields.
_PLACE: Final = ("session_partition", "session_offset")


def _written_version() -> int:
    return SCHEMA_VERSION


class Judgement(Struct, kw_only=True, frozen=True):
    """The judgement of one person on one item of a list.

    Attributes:
        query_id: The query whose list it was.
        item_id: The item; one that a list shows twice is judged once.
        grade: From 0, the worst, to 9; the scale within is the team's.
        annotator: Pseudonym of the person.
        seconds: Time that the judgement took; None if it was not measured.
        page: Id of the candidate page on which the item was shown to the annotator.
        budget: Name of the labelling budget that paid for it.
        num_items: Different items of the whole list, all of which a full annotation judges.
        event_ts: Time of the judgement; None if it is not known.
        session_partition: Partition of the record of `sessions` that holds the list; None if it is not known.
        session_offset: Offset of that record.
    """

    query_id: QueryId
    item_id: ItemId
    grade: Grade
    annotator: Label
    seconds: Seconds | None = None
    page: Label
    budget: Label
    num_items: Annotated[int, Meta(ge=1, le=MAX_ITEMS)]
    event_ts: Timestamp | None = None
    session_partition: Place | None = None
    session_offset: Place | None = None

    @property
    def session_at(self) -> tuple[int, int] | None:
        """Return partition and offset of the record of `sessions` that holds the list; None if it is not known."""
        if self.session_partition is None or self.session_offset is None:
            return None
        return self.session_partition, self.session_offset


class Annotation(Judgement, kw_only=True, frozen=True, omit_defaults=True):
    """A judgement as a record, in JSON.

    Attributes:
        event_id: Identity for deduplication: copies of a judgement have the same one.
        event_ts: Time of the judgement, or of its import if that is all that is known.
    """

    schema_version: SchemaVersion = field(default_factory=_written_version)
    event_id: EventId
    event_ts: Timestamp

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Return budget, query, item and annotator: of several judgements of one identity, the last record counts."""
        return self.budget, self.query_id, self.item_id, self.annotator

    @property
    def key(self) -> bytes:
        """Return the Kafka key: query and item, as a JSON array."""
        return msgspec.json.encode((self.query_id, self.item_id))


def annotation_of(judgement: Judgement, now_ms: int) -> Annotation:
    """Return the record of a judgement; its id depends on the judgement alone, so a repeated one is a copy.

    Args:
        judgement: The judgement; its time is part of its id if it is known.
        now_ms: Time of a judgement whose own is not known, epoch milliseconds.
    """
    values = {name: getattr(judgement, name) for name in Judgement.__struct_fields__}
    parts = [str(value) for name, value in values.items() if name not in _PLACE or value is not None]
    event_id = digest(*parts).hex()
    values["event_ts"] = now_ms if judgement.event_ts is None else judgement.event_ts
    return Annotation(event_id=event_id, **values)


_decoder = msgspec.json.Decoder(Annotation)
_encoder = msgspec.json.Encoder()


def encode(annotation: Annotation) -> bytes:
    """Return the JSON bytes of a record."""
    return _encoder.encode(annotation)


def decode(raw: bytes | None) -> Annotation:
    """Return the annotation in a record.

    Raises:
        SchemaError: If it is none; the detail names the field and its value.
    """
    body = raw or b""
    try:
        found = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise SchemaError("bad_value", str(problem(str(error), body))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SchemaError("not_json", str(Problem(error=str(error)))) from error
    if found.schema_version != SCHEMA_VERSION:
        raise SchemaError("schema_unknown", f"schema_version: {found.schema_version}, known {SCHEMA_VERSION}")
    return found
