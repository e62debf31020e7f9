"""Decoding: every fault of a record has its reason, and no other error is raised."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from stream.errors import SchemaError
from stream.schemas import decode
from stream.schemas.events import encode
from stream.schemas.outcomes import OUTCOME_OF_REASON
from tests.laws.join_log import click, impression, purchase

GOOD = json.loads(encode(impression(1)))


def _reason(raw: bytes | None) -> str:
    with pytest.raises(SchemaError) as caught:
        decode.impression(raw)
    return caught.value.reason


def _with(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()


def _part(position: list[int]) -> bytes:
    items = GOOD["items"]
    columns = {name: column[:2] for name, column in items.items()}
    return _with(items=columns | {"position": position})


def test_good_records_decode() -> None:
    assert asdict(decode.impression(encode(impression(1)))) == asdict(impression(1))
    assert asdict(decode.click(encode(click(1, 1, "item-1")))) == asdict(click(1, 1, "item-1"))
    assert decode.conversion(encode(purchase(1, 1, ["item-1"]))) == purchase(1, 1, ["item-1"])


def test_unknown_fields_explicit_defaults_and_colons_in_strings_are_fine() -> None:
    raw = _with(schema_version=1, source="urn:shop", extra={"a": [1, {"b": None}]}, attributes={"x": 1}, lineage=None)
    assert decode.impression(raw).source == "urn:shop"


@pytest.mark.parametrize("part", ["canary", "control", None])
def test_the_slice_is_read(part: str | None) -> None:
    assert decode.impression(_with(slice=part)).slice == part
    assert decode.impression(encode(impression(1))).slice is None


@pytest.mark.parametrize(
    ("reason", "raw"),
    [
        ("not_json", None),
        ("not_json", b""),
        ("not_json", b"\x00\x01\x02"),
        ("not_json", b'{"event_id": "e"'),
        ("not_json", b"not json at all"),
        ("not_utf8", b'{"event_id": "\xff\xfe"}'),
        ("wrong_type", b"[]"),
        ("wrong_type", b"null"),
        ("wrong_type", b"17"),
        ("bad_number", b'{"event_ts": NaN}'),
        ("bad_number", b'{"event_ts": -Infinity}'),
        ("bad_number", b'{"event_ts": 1e999}'),
        ("bad_number", b'{"event_ts": ' + b"9" * 5_000 + b"}"),
        ("too_deep", b'{"a":' + b"[" * 20 + b"]" * 20 + b"}"),
        ("too_deep", b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"),
        ("too_large", b'{"a": "' + b"x" * 65_536 + b'"}'),
        ("double_key", b'{"a": 1, "a": 2}'),
        ("missing_field", b"{}"),
        ("schema_unknown", b'{"schema_version": 2}'),
        ("schema_unknown", _with(schema_version=2)),
        ("missing_field", json.dumps({k: v for k, v in GOOD.items() if k != "query_id"}).encode()),
        ("wrong_type", _with(event_ts="yesterday")),
        ("wrong_type", _with(event_ts=1.5)),
        ("wrong_type", _with(client_id=None)),
        ("wrong_type", _with(items=[])),
        ("bad_value", _with(event_ts=-1)),
        ("bad_value", _with(client_id="")),
        ("bad_value", _with(slice="holdout")),
        ("bad_value", _with(client_id="c" * 129)),
        ("bad_value", _with(currency="eur")),
        ("bad_value", _with(currency="EUR\n")),
        ("bad_value", _with(items=GOOD["items"] | {"type": ["product", "video\n", "card"]})),
        ("bad_value", _with(action_name="click")),
        ("bad_value", _with(items=GOOD["items"] | {"price_minor": [1, -2, 3]})),
        ("bad_value", _with(items=GOOD["items"] | {"price_minor": [1, 2]})),
        ("bad_value", _with(items=GOOD["items"] | {"score": [1.0]})),
        ("bad_value", _with(items=GOOD["items"] | {"type": ["product"]})),
        ("bad_value", _with(items=GOOD["items"] | {"type": ["product", "Ad", "video"]})),
        ("bad_value", _with(items=GOOD["items"] | {"type": ["product", "a" * 33, "video"]})),
        ("bad_value", _with(source="s" * 65)),
        ("bad_value", _with(latency_us=2**60)),
        ("bad_value", _with(items=GOOD["items"] | {"score": [1.0, 2.0, 1e300]})),
        ("bad_value", _with(items={"object_id": [], "rank_in": [], "price_minor": []})),
        (
            "bad_value",
            _with(
                assignment=[{"layer": "l", "experiment": "e", "arm": "a", "epoch": 2**60, "bucket": 1}],
            ),
        ),
    ],
)
def test_faults_have_reasons(reason: str, raw: bytes | None) -> None:
    assert _reason(raw) == reason
    assert OUTCOME_OF_REASON[reason] == "dead"


@pytest.mark.parametrize("path", ["top", "query", "items", "attributes"])
def test_double_keys_are_found_at_every_level(path: str) -> None:
    raw = json.dumps(GOOD | {"attributes": {"a": 1}})
    key = {"top": '"event_id"', "query": '"hash"', "items": '"rank_in"', "attributes": '"a"'}[path]
    value = {"top": '"e"', "query": '"h"', "items": "[1, 2, 3]", "attributes": "1"}[path]
    assert raw.count(key + ":") == 1
    assert _reason(raw.replace(key + ":", f"{key} : {value}, {key}:").encode()) == "double_key"


def test_a_compact_double_key_is_found() -> None:
    raw = encode(impression(1)).replace(b'"source":', b'"source":"x","source":')
    assert _reason(raw) == "double_key"


def test_features_must_fit_the_list() -> None:
    features = {
        "schema": "a" * 64,
        "item_f16": "AAAAAAAAAAA=",  # 8 bytes, for 3 items
        "context_f16": "",
        "history": {"object_id": [], "action": [], "age_s": [], "category": []},
    }
    assert _reason(_with(features=features)) == "bad_value"
    history = {"object_id": ["a"], "action": ["click"], "age_s": [], "category": ["c"]}
    assert _reason(_with(features=features | {"item_f16": "", "history": history})) == "bad_value"


@pytest.mark.parametrize("pages", [[["a"]] * 6, [["a"] * 7], [[]], [["a"], [1]]], ids=str)
def test_pages_are_at_most_five_of_one_to_six_items(pages: list[list[object]]) -> None:
    history: dict[str, list[object]] = {"object_id": [], "action": [], "age_s": [], "category": []}
    features = {"schema": "a" * 64, "item_f16": "", "context_f16": ""}
    good = decode.impression(_with(features=features | {"history": history | {"pages": [["a"] * 6] * 5}}))
    assert good.features is not None
    assert good.features.history.pages == [["a"] * 6] * 5
    assert _reason(_with(features=features | {"history": history | {"pages": pages}})) in {"bad_value", "wrong_type"}


def test_order_lines_are_checked() -> None:
    good = json.loads(encode(purchase(1, 1, ["item-1", "item-2"])))
    changes: list[dict[str, object]] = [
        {"items": [good["items"][0], good["items"][0]]},
        {"items": [good["items"][0] | {"quantity": 10**7}]},
        {"items": [good["items"][0] | {"quantity": 0}]},
        {"items": [good["items"][0] | {"amount_minor": -1}]},
        {"items": []},
        {"refund_id": ""},
    ]
    for change in changes:
        with pytest.raises(SchemaError) as caught:
            decode.conversion(json.dumps(good | change).encode())
        assert caught.value.reason == "bad_value"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_decoded_or_refused_with_a_known_reason(raw: bytes) -> None:
    for decoder in (decode.impression, decode.click, decode.conversion, decode.tick):
        with pytest.raises(SchemaError) as caught:
            decoder(raw)
        assert caught.value.reason in OUTCOME_OF_REASON


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damaged_record_is_decoded_or_refused(data: st.DataObject) -> None:
    raw = bytearray(encode(impression(1)))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    reason = None
    try:
        decode.impression(bytes(raw))
    except SchemaError as fault:
        reason = fault.reason
    assert reason is None or reason in OUTCOME_OF_REASON


@pytest.mark.parametrize("double", ["event_id", "schema_version", "object_id"])
def test_a_double_key_is_found_where_the_version_is_left_out(double: str) -> None:
    raw = b'{"event_id":"e","event_ts":1,"client_id":"c","source":"s","action_name":"click","object_id":"o"}'
    decode.click(raw)
    value = "1" if double == "schema_version" else '"x"'
    twice = f'{{"{double}":{value},'.encode() + (f'"{double}":{value},'.encode() if value == "1" else b"") + raw[1:]
    with pytest.raises(SchemaError) as fault:
        decode.click(twice)
    assert fault.value.reason == "double_key"


@pytest.mark.parametrize(
    ("position", "detail"),
    [
        ([3], "items.position: 1 entries, expected 2"),
        ([3, 3], "items.position: 3 after 3, expected increasing positions"),
        ([3, 2], "items.position: 2 after 3, expected increasing positions"),
        ([-1, 2], "Expected `int` >= 0 - at `$.items.position[0]`"),
    ],
)
def test_positions_of_a_part_are_checked(position: list[int], detail: str) -> None:
    with pytest.raises(SchemaError) as caught:
        decode.impression(_part(position))
    assert (caught.value.reason, caught.value.detail) == ("bad_value", detail)


@pytest.mark.parametrize("position", [[0, 1], [3, 9]])
def test_positions_of_a_part_are_read(position: list[int]) -> None:
    assert decode.impression(_part(position)).items.position == position
