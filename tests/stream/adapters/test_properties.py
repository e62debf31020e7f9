"""Properties of every adapter on any input: no exception, records that the join accepts, the same ids again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.adapters import FORMATS, Options, adapt, source
from stream.errors import SchemaError
from stream.schemas import decode, topics
from stream.schemas.events import Event
from stream.schemas.outcomes import OUTCOME_OF_REASON

DECODERS: dict[str, Callable[[bytes], Event]] = {
    topics.IMPRESSIONS: decode.impression,
    topics.CLICKS: decode.click,
    topics.CONVERSIONS: decode.conversion,
}
OPTIONS = Options(query_hash_key=b"k")
SOURCES: dict[str, list[Any]] = {
    path.stem: [case["source"] for case in json.loads(path.read_text()) if isinstance(case["source"], dict)]
    for path in sorted((Path(__file__).parent / "golden").glob("*.json"))
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["", "0", "2026-01-05", "x" * 300, "9" * 60, "NaN", "1e999", "\ud800", "EUR", "XXX"])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def is_clean(raw: bytes) -> bool:
    """Return whether nothing is removed from a payload before it is stored."""
    try:
        content = source.parse(raw)
    except SchemaError:
        return False
    return source.redacted(content) == content


def check(name: str, raw: bytes) -> None:
    adapted, rejected = adapt(name, raw, OPTIONS)
    assert adapted or rejected
    for record in adapted:
        decoded = DECODERS[record.topic](record.value)
        assert decoded == record.record
        assert record.key == decoded.client_id.encode()
    for reject in rejected:
        assert OUTCOME_OF_REASON[reject.reason] == "dead"
        assert reject.reason != "internal", reject.detail
        if not is_clean(raw):
            continue  # the fault may stand in what is removed
        again, anew = adapt(name, reject.raw, OPTIONS)
        assert again == []
        assert [(one.reason, one.raw) for one in anew] == [(reject.reason, reject.raw)]
    assert adapt(name, raw, OPTIONS) == (adapted, rejected)


@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=200))
def test_any_bytes(name: str, raw: bytes) -> None:
    check(name, raw)


@pytest.mark.no_cover
@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=100, deadline=None)
@given(content=JSON)
def test_any_json(name: str, content: object) -> None:
    check(name, json.dumps(content).encode())


def paths(content: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [here, *(path for key, value in inner for path in paths(value, (*here, key)))]


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = changed(content[path[0]], path[1:], value)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SOURCES))
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_good_event_with_one_value_changed(name: str, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(SOURCES[name]))
    path = data.draw(st.sampled_from(paths(source)))
    check(name, json.dumps(changed(source, path, data.draw(JSON))).encode())


@pytest.mark.parametrize("name", sorted(SOURCES))
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_good_event_cut_or_flipped(name: str, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(data.draw(st.sampled_from(SOURCES[name]))).encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    check(name, bytes(raw))
    check(name, bytes(raw[:at]))
