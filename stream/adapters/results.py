"""Results of adapters: a record for a topic, or a reject with its reason and the original bytes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from stream.adapters import source
from stream.adapters.source import Fields, UnmappedError
from stream.errors import SchemaError
from stream.schemas import decode, topics
from stream.schemas.events import MAX_EVENT_BYTES, Click, Conversion, Impression, encode
from stream.schemas.identity import hashed_ids

OurEvent = Impression | Click | Conversion


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of the shop that adapters need.

    Attributes:
        query_hash_key: Key of the hash of query texts, the same as in the ranking service.
        client_id_key: Key of the hash that replaces ids of clients, visits and accounts; empty = none.
        currency: Currency of lists and orders whose source names none; None leaves theirs unknown.
        query_name: Name of the parameter or property that carries the query id where the source has none of its own.
        keep_unmapped: Write events of unmapped kinds to `dead_letters`, for debugging; else they are only counted.
    """

    query_hash_key: bytes = b""
    client_id_key: bytes = b""
    currency: str | None = None
    query_name: str = "query_id"
    keep_unmapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """One record for one of our topics.

    Attributes:
        topic: Where it belongs.
        key: The client, as bytes.
        record: The record.
        value: Its bytes, which `stream.schemas.decode` accepts.
    """

    topic: str
    key: bytes
    record: OurEvent
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """One source event that has no record here.

    Attributes:
        reason: Reason code, see docs/stream.md.
        detail: What was expected and what came; a path such as `$.items[0]` at its end when it was one field.
        raw: Bytes of a payload with this event only, without keys, tokens and personal data.
        kind: Name of the source's kind of event, where that kind has no counterpart; else empty.
        raw_detail: The detail with the path in `raw`, where that differs from the path in the payload.
    """

    reason: str
    detail: str
    raw: bytes
    kind: str = ""
    raw_detail: str = ""


Result = Adapted | Rejected

_TOPICS: Mapping[type[OurEvent], str] = {
    Impression: topics.IMPRESSIONS,
    Click: topics.CLICKS,
    Conversion: topics.CONVERSIONS,
}
_DECODERS: Mapping[str, Callable[[bytes], OurEvent]] = {
    topics.IMPRESSIONS: decode.impression,
    topics.CLICKS: decode.click,
    topics.CONVERSIONS: decode.conversion,
}


def collect(
    raw: bytes,
    split: Callable[[bytes], Iterable[Fields]],
    build: Callable[[Fields], Iterable[OurEvent]],
) -> list[Result]:
    """Return the results of all events in `raw`; an event is adapted as a whole or rejected as a whole.

    Args:
        raw: One payload as the source sent it.
        split: Returns its events.
        build: Returns the records of one event.
    """
    results: list[Result] = []
    try:
        events = list(split(raw))
    except SchemaError as fault:
        return [rejected(fault, source.scrubbed(raw))]
    if not events:
        return [Rejected(reason="missing_field", detail="a payload of no events", raw=source.scrubbed(raw))]
    for event in events:
        try:
            results += [checked(record) for record in build(event)]
        except SchemaError as fault:
            alone = len(events) == 1
            results.append(rejected(fault, _raw_of(event, raw, alone=alone), event if not alone else None))
    return results


def _raw_of(event: Fields, raw: bytes, *, alone: bool) -> bytes:
    kept = source.redacted(event.alone)
    return raw if alone and kept == event.alone else source.encode(kept)


def rejected(fault: SchemaError, raw: bytes, event: Fields | None = None) -> Rejected:
    """Return the reject of one event, which is `event` where the payload holds others too."""
    kind = fault.kind if isinstance(fault, UnmappedError) else ""
    detail = "" if event is None else fault.detail.replace(f"`{event.path}", f"`{event.alone_path}")
    return Rejected(reason=fault.reason, detail=fault.detail, raw=raw, kind=kind, raw_detail=detail)


def checked(record: OurEvent) -> Adapted:
    """Return `record` as the join will read it; attributes are given up where they alone make it too large.

    Raises:
        SchemaError: If the join would refuse it.
    """
    return _checked(record, _TOPICS[type(record)])


def _checked(record: OurEvent, topic: str) -> Adapted:
    try:
        value = encode(record)
    except UnicodeEncodeError as fault:
        raise SchemaError("bad_value", "half of a surrogate pair") from fault
    if len(value) > MAX_EVENT_BYTES and record.attributes:
        record.attributes = {"left_out": "too_large"}
        value = encode(record)
    return accepted(topic, value)


def with_hashed_ids(adapted: Adapted, key: bytes) -> Adapted:
    """Return the record with hashes in place of the ids of the client, the visit and the account.

    Raises:
        SchemaError: If the hashes alone make it too large.
    """
    record = adapted.record
    found = hashed_ids(record.client_id, record.session_id, record.user_id, key)
    return _checked(msgspec.structs.replace(record, **found), adapted.topic)


def accepted(topic: str, value: bytes) -> Adapted:
    """Return the record in `value`, which stays as it is.

    Raises:
        SchemaError: If the join would refuse it.
    """
    record = _DECODERS[topic](value)
    return Adapted(topic=topic, key=record.client_id.encode(), record=record, value=value)
