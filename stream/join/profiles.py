"""Profiles: the newest behaviours and clicked pages of each client, stored as the JSON that is emitted.

Behaviours are ordered by (event_ts, event_id), pages by (impression_ts, query_id), so the order of arrival changes
nothing. A new behaviour is usually the newest one: it goes to the front after at most one of the others is decoded.
"""

import msgspec
from msgspec import Struct

from stream.join import rows
from stream.join.output import MicroBatchOutput
from stream.join.settings import JoinSettings
from stream.join.tiers import WarmTier
from stream.schemas.events import MAX_PAGES, SCHEMA_VERSION, Behaviour, ClickedPage

_encoder = msgspec.json.Encoder()


class Profile(Struct):
    """A profile of `stream.schemas.events` whose behaviours stay encoded."""

    client_id: str
    behaviours: list[msgspec.Raw]
    updated_ts: int
    pages: list[ClickedPage] = []
    schema_version: int = SCHEMA_VERSION


_profiles = msgspec.json.Decoder(Profile)
_behaviours = msgspec.json.Decoder(Behaviour)


class Profiles:
    """The profiles of one partition."""

    def __init__(self, settings: JoinSettings, warm: WarmTier) -> None:
        self._size = settings.profile_size
        self._idle_ms = settings.profile_idle_s * 1_000
        self._warm = warm
        self._changed: dict[str, Profile] = {}

    def add(
        self, client_id: str, behaviour: Behaviour, page: ClickedPage | None = None, *, replaces: bool = False
    ) -> None:
        """Add a behaviour, and the page that it is a click on, to the profile of a client.

        The behaviour may replace the same one with another time.
        """
        profile = self._changed.get(client_id)
        if profile is None:
            stored = self._warm.get(rows.profile_key(client_id))
            profile = decode(rows.unpack_bytes(stored)) if stored is not None else empty(client_id)
            self._changed[client_id] = profile
        if replaces:
            remove(profile, behaviour)
        add(profile, behaviour, self._size, self._idle_ms)
        add_page(profile, page, self._idle_ms)

    def flush(self, output: MicroBatchOutput) -> None:
        """Write the changed profiles into the warm tier and into the output."""
        for client_id, profile in self._changed.items():
            expiry_ts = profile.updated_ts + self._idle_ms
            encoded = encode(profile)
            self._warm.put(rows.profile_key(client_id), rows.pack_bytes(expiry_ts, encoded))
            # A very late behaviour must not outlive the deletion of its profile.
            output.profiles.append((client_id.encode(), encoded if expiry_ts > self._warm.expired_ts else None))
        self._changed.clear()


def empty(client_id: str) -> Profile:
    """Return a profile without behaviours."""
    return Profile(client_id, [], 0)


def decode(profile: bytes) -> Profile:
    """Return an encoded profile."""
    return _profiles.decode(profile)


def encode(profile: Profile) -> bytes:
    """Return the JSON of a profile."""
    return _encoder.encode(profile)


def add(profile: Profile, behaviour: Behaviour, size: int, idle_ms: int) -> None:
    """Add a behaviour to a profile that may hold it already, and keep the `size` newest within `idle_ms`."""
    fragment = _encoder.encode(behaviour)
    known = profile.behaviours
    rank = (behaviour.event_ts, behaviour.event_id, behaviour.item_id)
    at = 0
    while at < len(known) and _rank(known[at]) > rank:
        at += 1
    if at < len(known) and _rank(known[at]) == rank:
        return
    known.insert(at, msgspec.Raw(fragment))
    profile.updated_ts = max(profile.updated_ts, behaviour.event_ts)
    del known[size:]
    while len(known) > 1 and _rank(known[-1])[0] <= profile.updated_ts - idle_ms:
        del known[-1]


def add_page(profile: Profile, page: ClickedPage | None, idle_ms: int) -> None:
    """Add a page to a profile that may hold it already, and keep the newest ones within `idle_ms`."""
    pages = [each for each in profile.pages if page is None or each.query_id != page.query_id]
    if page is not None:
        pages.append(page)
    first_ts = profile.updated_ts - idle_ms
    pages = [each for each in pages if each.impression_ts > first_ts]
    profile.pages = sorted(pages, key=lambda each: (each.impression_ts, each.query_id), reverse=True)[:MAX_PAGES]


def remove(profile: Profile, behaviour: Behaviour) -> None:
    """Remove the behaviour with the event and item of another one."""
    wanted = (behaviour.event_id, behaviour.item_id)
    profile.behaviours = [raw for raw in profile.behaviours if _rank(raw)[1:] != wanted]
    profile.updated_ts = max((_rank(raw)[0] for raw in profile.behaviours), default=0)


def _rank(raw: msgspec.Raw) -> tuple[int, str, str]:
    behaviour = _behaviours.decode(raw)
    return (behaviour.event_ts, behaviour.event_id, behaviour.item_id)
