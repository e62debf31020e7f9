"""Behaviours and clicked pages of clients: a bounded replica of the compacted topic `profiles`, written by the join."""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from threading import Lock

import msgspec
import numpy as np

from stream.errors import SchemaError
from stream.schemas.events import MAX_PAGE_ITEMS, MAX_PAGES, SCHEMA_VERSION, History, Profile
from stream.schemas.records import Record
from stream.schemas.session import ACTION_CODES

MAX_BEHAVIOURS = 50
DEFAULT_CAPACITY = 200_000

_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(Profile)
_actions = {code: name for name, code in ACTION_CODES.items()}


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """The columns of a client's behaviours and pages that a history shows, newest first.

    Attributes:
        event_ts: int64, in the byte order of this machine: it never leaves the process.
        action: Action codes, one byte each.
        category: Numbers in `categories`, one byte each.
        item: Numbers in `item_ids`, one byte each.
        pages: Numbers in `item_ids` of the items of each page, one byte each.
    """

    event_ts: bytes
    action: bytes
    category: bytes
    categories: list[str]
    item: bytes
    pages: list[bytes]
    item_ids: list[str]


_pack = msgspec.msgpack.Encoder().encode
_unpacker = msgspec.msgpack.Decoder(_Packed)


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
    """Client id to behaviours and pages, newest first; the clients used longest ago leave when it is full.

    A client takes one string of bytes: as objects, 50 behaviours would take ten times as much.

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
        self._clients: OrderedDict[str, bytes] = OrderedDict()
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
        packed = _packed(profile)
        with self._lock:
            self._clients[profile.client_id] = packed
            self._clients.move_to_end(profile.client_id)
            while len(self._clients) > self._capacity:
                self._clients.popitem(last=False)
                self.num_evicted += 1

    def history(self, client_id: str, event_ts: int) -> History:
        """Return the client's behaviours of known actions, newest first, with their age at `event_ts`, and its pages.

        Empty for an unknown client. A behaviour after `event_ts` has the age 0.
        """
        with self._lock:
            found = self._clients.get(client_id)
            if found is None:
                return History(object_id=[], action=[], age_s=[], category=[])
            self._clients.move_to_end(client_id)
        columns = _unpacker.decode(found)
        age_ms = event_ts - np.frombuffer(columns.event_ts, np.int64)
        name = columns.item_ids.__getitem__
        return History(
            object_id=[*map(name, columns.item)],
            action=[_actions[code] for code in columns.action],
            age_s=(np.maximum(age_ms, 0) // 1_000).tolist(),
            category=[columns.categories[number] for number in columns.category],
            pages=[[*map(name, page)] for page in columns.pages],
        )

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, client_id: object) -> bool:
        return client_id in self._clients


def _packed(profile: Profile) -> bytes:
    newest = sorted(profile.behaviours, key=lambda b: (b.event_ts, b.event_id), reverse=True)
    behaviours = [b for b in newest[:MAX_BEHAVIOURS] if b.action in ACTION_CODES]
    pages = sorted(profile.pages, key=lambda page: (page.impression_ts, page.query_id), reverse=True)[:MAX_PAGES]
    # At most 50 + 5 x 6 items: their numbers fit into one byte, and an id that comes again takes no further space.
    item_ids: dict[str, int] = {}
    categories: dict[str, int] = {}
    return _pack(
        _Packed(
            event_ts=np.array([b.event_ts for b in behaviours], np.int64).tobytes(),
            action=bytes(ACTION_CODES[b.action] for b in behaviours),
            category=_numbers([b.category or "" for b in behaviours], categories),
            categories=list(categories),
            item=_numbers([b.item_id for b in behaviours], item_ids),
            pages=[_numbers(page.item_id[:MAX_PAGE_ITEMS], item_ids) for page in pages],
            item_ids=list(item_ids),
        )
    )


def _numbers(values: Sequence[str], known: dict[str, int]) -> bytes:
    """Return the number of each value, one byte each; a value that is not known gets the next one."""
    return bytes(known.setdefault(value, len(known)) for value in values)
