"""With a key, no record of any format names a client, a visit or an account as its source did."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.adapters import Adapted, Options, adapt
from stream.schemas.events import MAX_EVENT_BYTES, Click, encode
from stream.schemas.identity import client_hash

GOLDEN = Path(__file__).parent / "golden"
KEY = b"0123456789abcdef0123456789abcdef"
PLAIN = Options(query_hash_key=b"golden")
HASHED = Options(query_hash_key=b"golden", client_id_key=KEY)
IDS = ("client_id", "session_id", "user_id")
CLICK = Click(
    event_id="e-1", event_ts=1_767_571_200_000, client_id="planted", source="shop", action_name="click", object_id="i"
)


def pairs(name: str, raw: bytes) -> list[tuple[Adapted, Adapted]]:
    (plain, refused), (hashed, refused_too) = adapt(name, raw, PLAIN), adapt(name, raw, HASHED)
    assert refused == refused_too
    return list(zip(plain, hashed, strict=True))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_only_the_ids_differ(path: Path) -> None:
    found = 0
    for case in json.loads(path.read_text()):
        source = case["source"]
        raw = source.encode() if isinstance(source, str) else json.dumps(source).encode()
        for plain, hashed in pairs(path.stem, raw):
            found += 1
            expected = {name: client_hash(value, KEY) for name in IDS if (value := getattr(plain.record, name))}
            assert {name: getattr(hashed.record, name) for name in expected} == expected
            assert hashed.key == expected["client_id"].encode()
            as_before = msgspec.structs.replace(
                hashed.record, **{name: getattr(plain.record, name) for name in expected}
            )
            assert as_before == plain.record
            assert msgspec.json.decode(hashed.value)["client_id"] == expected["client_id"]
    assert found > 2


def test_no_byte_of_our_own_event_names_the_client() -> None:
    event: dict[str, Any] = {**msgspec.to_builtins(CLICK), "session_id": "planted", "user_id": "planted"}
    [(plain, hashed)] = pairs("shelfwise", json.dumps(event).encode())
    assert b"planted" in plain.value
    assert b"planted" not in hashed.value + hashed.key


def test_an_event_that_the_hash_makes_too_large_is_refused() -> None:
    lines = "x" * (MAX_EVENT_BYTES - len(encode(CLICK)) - len(',"attributes":{"a":""}'))
    raw = encode(msgspec.structs.replace(CLICK, attributes={"a": lines}))
    assert len(raw) == MAX_EVENT_BYTES
    [(plain, hashed)] = pairs("shelfwise", raw)
    assert plain.record.attributes == {"a": lines}
    assert hashed.record.attributes == {"left_out": "too_large"}
