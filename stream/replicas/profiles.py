"""The newest behaviours of clients: a bounded replica of the compacted topic `profiles`, which the join writes."""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock

import msgspec

from stream.errors import SchemaError
from stream.schemas.events import SCHEMA_VERSION, Behaviour, Profile
from stream.schemas.records import Record

MAX_BEHAVIOURS = 50
DEFAULT_CAPACITY = 200_000

_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(Profile)


def decode(raw: bytes) -> Profile:
    """Return the profile in `raw`.

    Raises:
        SchemaError: If it is not a profile of a known major version.
    """
    try:
        profile = _decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise SchemaError("wrong_type", f"profiles record: {error}") from error
    if profile.schema_version != SCHEMA_VERSION:
        raise SchemaError(
            "schema_unknown", f"profiles record: schema_version {profile.schema_version}, known {SCHEMA_VERSION}"
        )
    return profile


class Profiles:
    """Client id to behaviours, newest first; the clients used longest ago leave when it is full.

    Attributes:
        positions: Next offset per (topic, partition) of the records applied, to follow the topic from.
        num_rejected: Records that could not be decoded, and were left out.
        num_evicted: Clients that left because the replica was full.

    Guarantees: safe for one writer and many readers in threads; applying the same records again changes nothing.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"capacity = {capacity}: expected 1 or more")
        self._capacity = capacity
        self._clients: OrderedDict[str, tuple[Behaviour, ...]] = OrderedDict()
        self._lock = Lock()
        self.positions: dict[tuple[str, int], int] = {}
        self.num_rejected = 0
        self.num_evicted = 0

    def apply(self, records: Iterable[Record]) -> int:
        """Apply records of `profiles` in offset order, tombstones included, and return how many were applied."""
        num_applied = 0
        for record in records:
            self.positions[record.topic, record.partition] = record.offset + 1
            if record.value is None:
                with self._lock:
                    self._clients.pop((record.key or b"").decode(errors="replace"), None)
            else:
                try:
                    profile = decode(record.value)
                except SchemaError as error:
                    self.num_rejected += 1
                    _log.warning(
                        "%s/%d, offset %d: record left out: %s", record.topic, record.partition, record.offset, error
                    )
                    continue
                self.put(profile)
            num_applied += 1
        return num_applied

    def put(self, profile: Profile) -> None:
        """Insert or replace one client's profile."""
        newest = sorted(profile.behaviours, key=lambda b: (b.event_ts, b.event_id), reverse=True)
        with self._lock:
            self._clients[profile.client_id] = tuple(newest[:MAX_BEHAVIOURS])
            self._clients.move_to_end(profile.client_id)
            while len(self._clients) > self._capacity:
                self._clients.popitem(last=False)
                self.num_evicted += 1

    def behaviours(self, client_id: str) -> tuple[Behaviour, ...]:
        """Return the client's behaviours, newest first; empty for an unknown client."""
        with self._lock:
            found = self._clients.get(client_id)
            if found is None:
                return ()
            self._clients.move_to_end(client_id)
            return found

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, client_id: object) -> bool:
        return client_id in self._clients
