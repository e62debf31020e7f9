"""Two hundred payloads that are no event, each with the reason code of its dead letter."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stream.schemas import events, topics
from stream.schemas.events import MAX_EVENT_BYTES
from tests.laws.join_log import click, impression, purchase

NUM_POISON = 200
Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Poison:
    """One payload; `key` is that of the record."""

    topic: str
    key: bytes | None
    value: bytes | None
    reason: str


def payloads(client: str, *, seed: int = 11) -> list[Poison]:
    """Return the payloads in a seeded order, addressed to a client that ordinary events may have too."""
    key = client.encode()
    found: list[Poison] = []
    for topic, good in _good(client).items():
        found += [Poison(topic, key, value, reason) for value, reason in _of_any_topic(good)]
        found += [Poison(topic, wrong, _json(good), "misrouted") for wrong in (None, b"", b"\xff\xfe", key + b" ")]
    own: Mapping[str, Iterator[tuple[bytes, str]]] = {
        topics.IMPRESSIONS: _impressions(_good(client)[topics.IMPRESSIONS]),
        topics.CLICKS: _clicks(_good(client)[topics.CLICKS]),
        topics.CONVERSIONS: _conversions(_good(client)[topics.CONVERSIONS]),
    }
    for topic, pairs in own.items():
        found += [Poison(topic, key, value, reason) for value, reason in pairs]
    random = np.random.default_rng(seed)
    while len(found) < NUM_POISON:
        # 0xC0 starts no character.
        found.append(Poison(topics.CLICKS, key, b"\xc0" + random.bytes(64), "not_utf8"))
    assert len(found) == NUM_POISON, len(found)
    return [found[at] for at in random.permutation(NUM_POISON)]


def _good(client: str) -> dict[str, Fields]:
    return {
        topics.IMPRESSIONS: json.loads(events.encode(impression(900, client=client))),
        topics.CLICKS: json.loads(events.encode(click(900, 900, "item-1", client=client, at_s=30))),
        topics.CONVERSIONS: json.loads(events.encode(purchase(900, 900, ["item-1", "item-2"], client=client, at_s=60))),
    }


def _json(fields: object) -> bytes:
    return json.dumps(fields).encode()


def _without(good: Fields, name: str) -> bytes:
    return _json({key: value for key, value in good.items() if key != name})


def _with_raw(good: Fields, name: str, raw: bytes) -> bytes:
    """Return the event with the bytes of a value that no encoder would write."""
    return _json(good | {name: "@@"}).replace(b'"@@"', raw)


def _of_any_topic(good: Fields) -> Iterator[tuple[bytes | None, str]]:
    whole = _json(good)
    for junk in (None, b"", b"\x00", b" \n\t", b"GET / HTTP/1.1\r\n\r\n", b"{'event_id': 1}", b"\xef\xbb\xbf" + whole):
        yield junk, "not_json"
    for end in (1, len(whole) // 2, len(whole) - 1):
        yield whole[:end], "not_json"
    yield whole + b"}", "not_json"
    yield whole + whole, "not_json"
    yield b"[" * 9, "not_json"
    yield whole.decode().encode("utf-16"), "not_utf8"
    yield whole.replace(b'"test"', b'"te\xed\xa0\x80t"'), "not_utf8"
    yield whole.replace(b'"test"', b'"\xf0\x28\x8c\x28"'), "not_utf8"
    for number in (b"NaN", b"-Infinity", b"1e999", b"9" * 5_000):
        yield _with_raw(good, "event_ts", number), "bad_number"
    yield _with_raw(good, "attributes", b'{"a": NaN}'), "bad_number"
    yield b"[" * 30_000, "too_deep"
    yield b'{"a":' * 9_000, "too_deep"
    yield _with_raw(good, "attributes", b'{"a":' + b"[" * 16 + b"]" * 16 + b"}"), "too_deep"
    yield _with_raw(good, "attributes", b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"), "too_deep"
    for other in (b"[]", b"null", b"17", b'"text"', b"[" + whole + b"]"):
        yield other, "wrong_type"
    for name in ("event_ts", "client_id", "source"):
        yield _without(good, name), "missing_field"
    yield b"{}", "missing_field"
    for name, value in (("event_ts", "yesterday"), ("event_ts", True), ("event_id", 7), ("client_id", None)):
        yield _json(good | {name: value}), "wrong_type"
    for name, value in (("event_ts", -1), ("event_ts", 2**63), ("event_id", "e" * 65), ("client_id", "")):
        yield _json(good | {name: value}), "bad_value"
    yield whole[:-1] + b', "event_id": "again"}', "double_key"
    for version in (0, 2, 99):
        yield _json(good | {"schema_version": version}), "schema_unknown"
    yield _json(good | {"attributes": {"x": "y" * MAX_EVENT_BYTES}}), "too_large"


def _impressions(good: Fields) -> Iterator[tuple[bytes, str]]:
    items = good["items"]
    assert isinstance(items, dict)
    for wrong in (
        {"price_minor": [100, -1, 300]},
        {"price_minor": [100]},
        {"rank_in": [0, 1, 2]},
        {"object_id": ["", "b", "c"]},
        {"score": [1.0, 2.0, 1e300]},
        {"propensity": [0.5, 0.5, 0.0]},
        {"object_id": ["x"] * 201, "rank_in": [1] * 201, "price_minor": [1] * 201},
    ):
        yield _json(good | {"items": items | wrong}), "bad_value"
    yield _json(good | {"items": items | {"price_minor": [100, "200", 300]}}), "wrong_type"
    yield _json(good | {"items": items | {"price_minor": [100, 1.5, 300]}}), "wrong_type"
    yield _json(good | {"currency": "euro"}), "bad_value"
    yield _json(good).replace(b'"rank_in":', b'"rank_in": [1, 2, 3], "rank_in":'), "double_key"


def _clicks(good: Fields) -> Iterator[tuple[bytes, str]]:
    yield _without(good, "object_id"), "missing_field"
    yield _json(good | {"position": 0}), "bad_value"
    yield _json(good | {"position": "1"}), "wrong_type"
    yield _json(good | {"action_name": "view"}), "bad_value"
    yield _json(good | {"object_id": "o" * 257}), "bad_value"


def _conversions(good: Fields) -> Iterator[tuple[bytes, str]]:
    lines = good["items"]
    assert isinstance(lines, list)
    for wrong in ({"amount_minor": -500}, {"quantity": 0}, {"quantity": 10**7}, {"line_id": ""}):
        yield _json(good | {"items": [lines[0] | wrong]}), "bad_value"
    yield _json(good | {"items": [lines[0] | {"amount_minor": 4.99}]}), "wrong_type"
    yield _json(good | {"items": [lines[0], lines[0]]}), "bad_value"
    yield _json(good | {"items": []}), "bad_value"
    yield _json(good | {"transaction_id": None}), "wrong_type"
