"""Profiles: the newest behaviours of a client, kept as the JSON that is emitted.

Behaviours are ordered by (event_ts, event_id), so the order of arrival changes nothing. The usual new behaviour is the
newest: it is put in front without decoding the others.
"""

import msgspec
from msgspec import Struct

from stream.events import SCHEMA_VERSION, Behaviour

_raw_encoder = msgspec.json.Encoder()


class _Stored(Struct):
    client_id: str
    behaviours: list[msgspec.Raw]
    updated_ts: int
    schema_version: int = SCHEMA_VERSION


class _End(Struct):
    updated_ts: int


_ends = msgspec.json.Decoder(_End)
_stored = msgspec.json.Decoder(_Stored)
_behaviours = msgspec.json.Decoder(Behaviour)


def add(profile: bytes | None, client_id: str, behaviour: Behaviour, size: int) -> bytes:
    """Return the profile with one more behaviour, at most the `size` newest.

    Args:
        profile: JSON of the profile so far.
        client_id: Whose profile it is.
        behaviour: A behaviour that it may hold already, by its event and item.
        size: How many to keep.
    """
    fragment = msgspec.Raw(_raw_encoder.encode(behaviour))
    if profile is None:
        return _encode(_Stored(client_id, [fragment], behaviour.event_ts))
    stored = _stored.decode(profile)
    if any(bytes(known) == bytes(fragment) for known in stored.behaviours):
        return profile
    rank = (behaviour.event_ts, behaviour.event_id, behaviour.item_id)
    at = 0
    while at < len(stored.behaviours) and _rank(stored.behaviours[at]) > rank:
        at += 1
    stored.behaviours.insert(at, fragment)
    del stored.behaviours[size:]
    stored.updated_ts = max(stored.updated_ts, behaviour.event_ts)
    return _encode(stored)


def updated_ts(profile: bytes) -> int:
    """Return the time of the newest behaviour of an encoded profile."""
    return _ends.decode(profile).updated_ts


def _rank(raw: msgspec.Raw) -> tuple[int, str, str]:
    behaviour = _behaviours.decode(raw)
    return (behaviour.event_ts, behaviour.event_id, behaviour.item_id)


def _encode(stored: _Stored) -> bytes:
    return _raw_encoder.encode(stored)
