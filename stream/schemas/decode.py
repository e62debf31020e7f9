"""Strict decoding of input records: every fault has a reason code, and no other error is raised.

The fast path is one typed decode and a count of colons. A record with unknown fields, explicit defaults or colons in
strings takes a slower, exact check for double keys and depth. A refused record is examined again to name its fault.

Source: docs/stream.md.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from stream.errors import SchemaError
from stream.schemas import topics
from stream.schemas.events import (
    MAX_EVENT_BYTES,
    MAX_PAGE_ITEMS,
    MAX_PAGES,
    SCHEMA_VERSION,
    Click,
    Conversion,
    Impression,
    SchemaVersion,
    Tick,
)

MAX_DEPTH = 16
_U32_MAX = 2**32 - 1
_INT_MAX = 2**53
_MAX_HISTORY = 50
_MAX_QUANTITY = 1_000_000


# The count of keys needs to know whether a field with a default was in the bytes.
class _Impression(Impression, kw_only=True):
    schema_version: SchemaVersion | UnsetType = UNSET  # type: ignore[assignment]
    action_name: Literal["impression"] | UnsetType = UNSET  # type: ignore[assignment]


class _Click(Click, kw_only=True):
    schema_version: SchemaVersion | UnsetType = UNSET  # type: ignore[assignment]


_impressions = msgspec.json.Decoder(_Impression)
_clicks = msgspec.json.Decoder(_Click)
_conversions = msgspec.json.Decoder(Conversion)
_ticks = msgspec.json.Decoder(Tick)
_anything = msgspec.json.Decoder()


class _Keyed(msgspec.Struct):
    client_id: str


_keyed = msgspec.json.Decoder(_Keyed)
_FAULTS = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)


def impression(raw: bytes | None) -> Impression:
    """Return the impression in `raw`.

    Raises:
        SchemaError: With a reason code of docs/stream.md.
    """
    if raw is None or len(raw) > MAX_EVENT_BYTES:
        raise _unfit(raw)
    try:
        event = _impressions.decode(raw)
    except _FAULTS as error:
        raise _diagnosed(raw, error) from error
    version = event.schema_version
    if version != SCHEMA_VERSION and version is not UNSET:
        raise _unknown(version)
    if raw.count(b":") != _impression_keys(event):
        _check_exactly(raw)
    _check_impression(event)
    return event


def click(raw: bytes | None) -> Click:
    """Return the click in `raw`.

    Raises:
        SchemaError: With a reason code of docs/stream.md.
    """
    if raw is None or len(raw) > MAX_EVENT_BYTES:
        raise _unfit(raw)
    try:
        event = _clicks.decode(raw)
    except _FAULTS as error:
        raise _diagnosed(raw, error) from error
    version = event.schema_version
    if version != SCHEMA_VERSION and version is not UNSET:
        raise _unknown(version)
    # Every click has six keys.
    num_keys = (
        6
        + (version is not UNSET)
        + (event.query_id is not None)
        + (event.position is not None)
        + (event.session_id is not None)
        + (event.user_id is not None)
    )
    if raw.count(b":") != num_keys:
        _check_exactly(raw)
    return event


def conversion(raw: bytes | None) -> Conversion:
    """Return the conversion in `raw`.

    Raises:
        SchemaError: With a reason code of docs/stream.md.
    """
    if raw is None or len(raw) > MAX_EVENT_BYTES:
        raise _unfit(raw)
    try:
        event = _conversions.decode(raw)
    except _FAULTS as error:
        raise _diagnosed(raw, error) from error
    if event.schema_version != SCHEMA_VERSION:
        raise _unknown(event.schema_version)
    _check_exactly(raw)
    _check_conversion(event)
    return event


def tick(raw: bytes | None) -> Tick:
    """Return the tick in `raw`.

    Raises:
        SchemaError: With a reason code of docs/stream.md.
    """
    if raw is None or len(raw) > MAX_EVENT_BYTES:
        raise _unfit(raw)
    try:
        event = _ticks.decode(raw)
    except _FAULTS as error:
        raise _diagnosed(raw, error) from error
    if event.schema_version != SCHEMA_VERSION:
        raise _unknown(event.schema_version)
    return event


_DECODERS: Mapping[str, Callable[[bytes | None], Impression | Click | Conversion | Tick]] = {
    topics.IMPRESSIONS: impression,
    topics.CLICKS: click,
    topics.CONVERSIONS: conversion,
    topics.TICKS: tick,
}


def event(topic: str, raw: bytes | None) -> Impression | Click | Conversion | Tick:
    """Return the event in a record of an input topic.

    Raises:
        SchemaError: With a reason code of docs/stream.md; `unmapped` for any other topic.
    """
    decoder = _DECODERS.get(topic)
    if decoder is None:
        raise SchemaError("unmapped", f"topic '{topic}' is no input of the join")
    return decoder(raw)


def client_key(raw: bytes | None) -> bytes | None:
    """Return the key that belongs to a record, even to an invalid one, or None if its client is unreadable.

    >>> client_key(b'{"client_id": "c1", "schema_version": 9}'), client_key(b"{")
    (b'c1', None)
    """
    try:
        return _keyed.decode(raw or b"").client_id.encode()
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


def _unfit(raw: bytes | None) -> SchemaError:
    if raw is None:
        return SchemaError("not_json", "expected a JSON object, got a null record")
    return SchemaError("too_large", f"{len(raw)} bytes, at most {MAX_EVENT_BYTES}")


def _unknown(version: int) -> SchemaError:
    return SchemaError("schema_unknown", f"schema_version {version}, known {SCHEMA_VERSION}")


def _impression_keys(event: _Impression) -> int:
    """Return the number of keys of an impression with these fields, if no default is written out."""
    query, items = event.query, event.items
    # Every impression: four keys of an event, query_id, currency, `query` with its hash, `items` with three columns.
    num_keys = (
        12
        + (event.schema_version is not UNSET)
        + (event.action_name is not UNSET)
        + (event.session_id is not None)
        + (event.user_id is not None)
        + (event.lineage is not None)
        + (event.version is not None)
        + (event.slice is not None)
        + (event.fallback is not None)
        + (event.triggered is not None)
        + (query.category is not None)
        + (query.total_hits is not None)
        + (items.score is not None)
        + (items.propensity is not None)
        + (items.type is not None)
        + (items.position is not None)
        + (query.page != 1)
        + (event.latency_us != 0)
    )
    if event.features is not None:
        num_keys += 9
    if event.assignment:
        num_keys += 1 + 5 * len(event.assignment)
    return num_keys


def _check_exactly(raw: bytes) -> None:
    try:
        content = _anything.decode(raw)
    except _FAULTS as error:
        raise _diagnosed(raw, error) from error
    num_keys, depth = _measure(content)
    if depth > MAX_DEPTH:
        raise SchemaError("too_deep", f"depth {depth}, at most {MAX_DEPTH}")
    if raw.count(b":") != num_keys:
        try:
            json.loads(raw, object_pairs_hook=_unique)
        except _FAULTS as error:
            raise _diagnosed(raw, error) from error


def _measure(content: object) -> tuple[int, int]:
    """Return the number of keys and the depth of decoded JSON."""
    children: Sequence[object]
    if isinstance(content, dict):
        num_keys, children = len(content), tuple(content.values())
    elif isinstance(content, list):
        num_keys, children = 0, content
    else:
        return 0, 0
    depth = 0
    for child in children:
        if isinstance(child, dict | list):
            keys_below, depth_below = _measure(child)
            num_keys += keys_below
            depth = max(depth, depth_below)
    return num_keys, depth + 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _DoubleKeyError(double)
    return unique


class _DoubleKeyError(ValueError):
    pass


class _BadNumberError(ValueError):
    pass


def _refuse_constant(text: str) -> float:
    raise _BadNumberError(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise _BadNumberError(text[:40])
    return number


def _diagnosed(raw: bytes, error: Exception) -> SchemaError:
    """Return the fault of bytes that the fast path has refused."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as fault:
        return SchemaError("not_utf8", f"byte {fault.start}")
    if isinstance(error, _DoubleKeyError):
        return SchemaError("double_key", f"key '{error}'")
    try:
        content = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded
        )
        depth = _measure(content)[1]
    except RecursionError:
        return SchemaError("too_deep", f"at most {MAX_DEPTH}")
    except _DoubleKeyError as fault:
        return SchemaError("double_key", f"key '{fault}'")
    except _BadNumberError as fault:
        return SchemaError("bad_number", f"number {fault}")
    except ValueError as fault:
        return SchemaError("not_json", str(fault)[:200])
    if depth > MAX_DEPTH:
        return SchemaError("too_deep", f"depth {depth}, at most {MAX_DEPTH}")
    if not isinstance(content, dict):
        return SchemaError("wrong_type", f"expected an object, got {type(content).__name__}")
    version = content.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version != SCHEMA_VERSION:
        return _unknown(version)
    return SchemaError(_field_reason(str(error)), str(error)[:200])


def _bounded(text: str) -> int:
    if len(text) > 20:
        raise _BadNumberError(f"of {len(text)} digits")
    return int(text)


def _field_reason(message: str) -> str:
    if "missing required field" in message:
        return "missing_field"
    if message.startswith("Expected") and ", got " in message:
        return "wrong_type"
    return "bad_value"


def _check_impression(event: Impression) -> None:
    items = event.items
    n = len(items.object_id)
    if len(items.rank_in) != n or len(items.price_minor) != n:
        raise SchemaError("bad_value", f"items: columns of {n}, {len(items.rank_in)}, {len(items.price_minor)} entries")
    if items.score is not None and len(items.score) != n:
        raise SchemaError("bad_value", f"items.score: {len(items.score)} entries, expected {n}")
    if items.propensity is not None and len(items.propensity) != n:
        raise SchemaError("bad_value", f"items.propensity: {len(items.propensity)} entries, expected {n}")
    if items.type is not None and len(items.type) != n:
        raise SchemaError("bad_value", f"items.type: {len(items.type)} entries, expected {n}")
    if items.position is not None:
        _check_positions(items.position, n)
    for assigned in event.assignment:
        if not -_INT_MAX <= assigned.epoch <= _INT_MAX:
            raise SchemaError("bad_value", f"assignment.epoch: {assigned.epoch}")
    if event.features is not None:
        features, history = event.features, event.features.history
        if len(features.item_f16) % (2 * n) or len(features.context_f16) % 2:
            raise SchemaError("bad_value", f"features: {len(features.item_f16)} bytes for {n} items")
        h = len(history.object_id)
        if h > _MAX_HISTORY or not h == len(history.action) == len(history.age_s) == len(history.category):
            raise SchemaError("bad_value", f"features.history: columns differ or exceed {_MAX_HISTORY} entries")
        if h and max(history.age_s) > _U32_MAX:
            raise SchemaError("bad_value", "features.history.age_s: beyond 32 bits")
        if len(history.pages) > MAX_PAGES or not all(1 <= len(page) <= MAX_PAGE_ITEMS for page in history.pages):
            detail = f"expected at most {MAX_PAGES} pages of 1 to {MAX_PAGE_ITEMS} items"
            raise SchemaError("bad_value", f"features.history.pages: {detail}")


def _check_positions(position: list[int], n: int) -> None:
    if len(position) != n:
        raise SchemaError("bad_value", f"items.position: {len(position)} entries, expected {n}")
    for before, after in pairwise(position):
        if after <= before:
            raise SchemaError("bad_value", f"items.position: {after} after {before}, expected increasing positions")


def _check_conversion(event: Conversion) -> None:
    seen: set[str] = set()
    for line in event.items:
        if line.line_id in seen:
            raise SchemaError("bad_value", f"items: line_id '{line.line_id}' twice")
        seen.add(line.line_id)
        if line.quantity > _MAX_QUANTITY:
            raise SchemaError("bad_value", f"items.quantity: {line.quantity}, at most {_MAX_QUANTITY}")
    if event.refund_id is not None and not 1 <= len(event.refund_id) <= 128:
        raise SchemaError("bad_value", f"refund_id: {len(event.refund_id)} characters, expected 1 to 128")
