"""Profiles: the newest behaviours of a client, kept as the JSON that is emitted.

Behaviours are ordered by (event_ts, event_id), so the order of arrival changes nothing. The usual new behaviour is the
newest: it is put in front without decoding more than one of the others.
"""

import msgspec
from msgspec import Struct

from stream.schemas.events import SCHEMA_VERSION, Behaviour

_encoder = msgspec.json.Encoder()


class Profile(Struct):
    """A profile as `stream.schemas.events` has it, whose behaviours stay encoded."""

    client_id: str
    behaviours: list[msgspec.Raw]
    updated_ts: int
    schema_version: int = SCHEMA_VERSION


_profiles = msgspec.json.Decoder(Profile)
_behaviours = msgspec.json.Decoder(Behaviour)


def empty(client_id: str) -> Profile:
    """Return the profile of a client who has done nothing yet."""
    return Profile(client_id, [], 0)


def decode(profile: bytes) -> Profile:
    """Return an encoded profile."""
    return _profiles.decode(profile)


def encode(profile: Profile) -> bytes:
    """Return the JSON of a profile."""
    return _encoder.encode(profile)


def add(profile: Profile, behaviour: Behaviour, size: int) -> None:
    """Add a behaviour to a profile that may hold it already, and keep the `size` newest."""
    fragment = _encoder.encode(behaviour)
    known = profile.behaviours
    rank = (behaviour.event_ts, behaviour.event_id, behaviour.item_id)
    at = 0
    while at < len(known) and _rank(known[at]) > rank:
        at += 1
    if at < len(known) and _rank(known[at]) == rank:
        return
    known.insert(at, msgspec.Raw(fragment))
    del known[size:]
    profile.updated_ts = max(profile.updated_ts, behaviour.event_ts)


def _rank(raw: msgspec.Raw) -> tuple[int, str, str]:
    behaviour = _behaviours.decode(raw)
    return (behaviour.event_ts, behaviour.event_id, behaviour.item_id)
