"""Session records: columns, codec and refusals."""

import msgspec
import pytest
from msgspec.structs import replace

from stream.errors import SchemaError
from stream.schemas import session
from stream.schemas.session import COLUMNS, Progress, Session, SessionsRecord, pack, unpack
from tests.harness.sessions import make_session, unlinked


def test_every_field_of_bytes_is_a_column_or_a_digest() -> None:
    contents = msgspec.json.schema(Session)["$defs"]["Session"]["properties"]
    of_bytes = {name for name, schema in contents.items() if schema.get("contentEncoding") == "base64"}
    assert of_bytes == {*COLUMNS, "label_key", "feature_schema"}
    assert COLUMNS["units"] == ("<u4", ("n",))
    assert COLUMNS["item_f16"] == ("<f2", ("n", "f"))


@pytest.mark.parametrize(
    ("name", "values", "stored"),
    [
        ("rank_in", [1, 65_535], [1, 65_535]),
        ("rank_in", [1, 65_536], [1, 65_535]),
        ("units", [2**32], [2**32 - 1]),
        ("click_delay_ms", [-1, 2**40], [-1, 2**40]),
        ("gross_minor", [2**63], [2**63 - 1]),
        ("hist_action", [0, 3], [0, 3]),
        ("score", [0.5, -2.0], [0.5, -2.0]),
        ("changed", [], []),
    ],
)
def test_numbers_beyond_a_column_become_its_largest_one(name: str, values: list[float], stored: list[float]) -> None:
    raw = pack(name, values)
    assert unpack(name, raw).tolist() == stored
    assert unpack(name, raw).dtype.str == COLUMNS[name].dtype.replace("<u1", "|u1")


def test_a_column_of_a_session_is_its_array() -> None:
    assert make_session("q", "c", n=3).column("clicks").tolist() == [0, 0, 0]


def test_records_decode_to_what_was_encoded() -> None:
    progress = Progress(partition=1, watermark_ts=2, matured_ts=1, now_ts=3, counters={"a": 1})
    records: tuple[SessionsRecord, ...] = (make_session("q", "c"), progress, unlinked("c", "t"))
    assert [session.decode(session.encode(record)) for record in records] == list(records)


def test_a_session_from_before_slices_decodes() -> None:
    older = msgspec.msgpack.decode(session.encode(make_session("q", "c")))
    del older["slice"]
    assert session.decode(msgspec.msgpack.encode(older)) == make_session("q", "c")


def test_other_records_are_refused() -> None:
    newer = session.encode(replace(make_session("q", "c"), schema_version=2))
    for raw, reason in ((newer, "schema_unknown"), (b"", "wrong_type"), (b"\x80", "wrong_type")):
        with pytest.raises(SchemaError) as caught:
            session.decode(raw)
        assert caught.value.reason == reason
