"""S14: release N on list payloads and behaviours that N+1 has written."""

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from stream.join import profiles as join_profiles
from stream.join import sessions
from stream.join.rows import ImpressionRow, SessionRow
from stream.join.sessions import ListPayload
from stream.schemas import events, session
from tests.laws.join_log import START_TS, impression
from tests.stream.faults import test_schemas as schemas
from tests.stream.faults.fault_log import log_of, on_time, shopping
from tests.stream.faults.test_schemas import END_TS, NEXT, grown


def _grown_payload(payload: bytes) -> bytes:
    return msgspec.msgpack.encode(grown(msgspec.msgpack.decode(payload, type=ListPayload)))


def test_s14_a_session_is_built_from_the_list_payload_of_the_next_schema() -> None:
    """S14: the size of the map that a session begins with counts the pairs of the part that is there."""
    shown = impression(1)
    payload = sessions.list_payload(shown, 1, 0)
    header = sessions.Header(revision=0, reason="close", close_ts=START_TS + 1, watermark_ts=START_TS + 2)
    for each in (payload, _grown_payload(payload)):
        value = sessions.build(each, None, header, n=3, impression_ts=START_TS, partition=1, changed=())
        content = session.decode(value)
        assert isinstance(content, session.Session)
        assert content.query_id == shown.query_id
        assert msgspec.msgpack.decode(value)["watermark_ts"] == START_TS + 2


def test_s14_state_with_list_payloads_of_the_next_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """S14: rows of N+1 whose lists hold one more field."""
    plain = schemas.grown

    def grown_with_parts(content: Struct) -> Struct:
        if isinstance(content, ImpressionRow | SessionRow):
            content = replace(content, list_payload=_grown_payload(content.list_payload))
        grown_content: Struct = plain(content)
        return grown_content

    monkeypatch.setattr(schemas, "grown", grown_with_parts)
    happened = shopping(400, seed=15)
    log = log_of(on_time(happened, seed=15), end_ts=END_TS)
    calm = schemas._run_over(log, {10: "N"})
    result = schemas._run_over(log, {60: NEXT})
    assert result.outcomes == calm.outcomes
    assert result.outputs.final() == calm.outputs.final()


def test_s14_a_behaviour_of_the_next_schema_is_not_added_twice() -> None:
    """S14: after a rollback a micro-batch is merged again into a profile that N+1 has written."""
    behaviour = events.Behaviour(event_id="e", item_id="i", action="click", event_ts=START_TS)
    written = msgspec.json.encode(grown(events.Profile(client_id="c", behaviours=[behaviour], updated_ts=START_TS)))
    profile = join_profiles.decode(written)
    join_profiles.add(profile, behaviour, 50, 1_000)
    assert len(profile.behaviours) == 1
