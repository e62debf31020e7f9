"""Records of the topics `dead_letters` and `unjoined`: written, read and selected in this module only.

The value of such a record is the value of its source record; a refused one above the size limit is truncated. The
headers describe the source record and the reason:

| header | content |
|---|---|
| `topic`, `partition`, `offset` | coordinates of the source record; an adapter's payload has topic `ingest:FORMAT` |
| `line_id` | the order line, only where one line of a conversion did not join |
| `reason`, `detail` | reason code of `stream.schemas.outcomes`, and what was expected and found |
| `append_ts` | time at which the source record was appended |
| `attempt`, `first_seen` | 1 plus the number of redrives, and `append_ts` of the first attempt |
| `redriven_from` | coordinates of the dead letter whose redrive wrote the source record |
| `sha256` | digest of the whole value, only where the value is truncated |
| `redriven_ts` | time of the redrive, only on a redrive receipt, which repeats the other headers without the value |

The coordinates and the order line identify a dead letter. A record written again after a crash and a redrive receipt
are the same dead letter; the highest attempt decides its state.

Source: docs/stream.md.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from stream.schemas.events import MAX_EVENT_BYTES
from stream.schemas.records import Record

Headers = list[tuple[str, bytes]]
OutgoingRecord = tuple[bytes | None, bytes | None, Headers]
"""Key, value and headers of a record to send."""
Coordinates = tuple[str, int, int]
"""Topic, partition and offset of a source record."""
Identity = tuple[str, int, int, str]
Location = tuple[int, int]
"""Partition and offset of a record in the topic of its dead letter."""

_TEXT_HEADERS = ("reason", "detail", "topic", "line_id", "sha256", "redriven_from")
_INTEGER_HEADERS = ("partition", "offset", "append_ts", "attempt", "first_seen", "redriven_ts")
_REDRIVE_HEADERS = frozenset(("redriven_from", "attempt", "first_seen"))
_KEPT_BYTES = 1_024
_MAX_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter without its value.

    Attributes:
        topic: Topic of the source record, or `ingest:FORMAT`.
        partition: Partition of the source record.
        offset: Offset of the source record.
        line_id: Order line that did not join, empty for a whole record.
        reason: Reason code.
        detail: Expected and found content.
        append_ts: Time at which the source record was appended.
        first_seen: Time at which the first attempt was appended.
        attempt: 1 plus the number of redrives.
        redriven_ts: Time at which this attempt was redriven, None if it was not.
        size: Bytes of the value as kept.
        is_truncated: Whether the kept value is only the start of the source record's value.
        location: Partition and offset of the record that carries the value.
        is_receipt: Whether only the redrive receipt was found, which carries no value.
    """

    topic: str
    partition: int
    offset: int
    line_id: str
    reason: str
    detail: str
    append_ts: int
    first_seen: int
    attempt: int
    redriven_ts: int | None
    size: int
    is_truncated: bool
    location: Location
    is_receipt: bool

    @property
    def coordinates(self) -> Coordinates:
        """Return topic, partition and offset of the source record."""
        return self.topic, self.partition, self.offset

    @property
    def identity(self) -> Identity:
        """Return the coordinates with the order line."""
        return *self.coordinates, self.line_id


# Writing


def rejected(record: Record, reason: str, detail: str) -> OutgoingRecord:
    """Return a refused record for the dead-letter topic; above the size limit with its first KiB and its sha256.

    A redriven record keeps its number of attempts and the time of its first attempt.
    """
    headers = _source_headers(
        record.topic, record.partition, record.offset, append_ts=record.timestamp, reason=reason, detail=detail
    )
    # Kafka allows headers whose value is null.
    redriven = {name: value for name, value in record.headers if name in _REDRIVE_HEADERS and value is not None}
    if redriven:
        headers = [(name, _number(redriven.get(name), value)) for name, value in headers]
        if "redriven_from" in redriven:
            headers.append(("redriven_from", redriven["redriven_from"][:_KEPT_BYTES]))
    value = record.value
    if value is not None and len(value) > MAX_EVENT_BYTES:
        headers.append(("sha256", sha256(value).hexdigest().encode()))
        value = value[:_KEPT_BYTES]
    # A key may be as large as a record: with the headers, the dead letter would exceed the broker's limit.
    key = record.key if record.key is None or len(record.key) <= _KEPT_BYTES else record.key[:_KEPT_BYTES]
    return key, value, headers


def unjoined(
    client_id: str,
    raw: bytes,
    *,
    topic: str,
    partition: int,
    offset: int,
    append_ts: int,
    reason: str,
    detail: str,
    line_id: str | None = None,
) -> OutgoingRecord:
    """Return a late or orphaned record, or one order line of it, for the topic `unjoined`."""
    headers = _source_headers(topic, partition, offset, append_ts=append_ts, reason=reason, detail=detail)
    if line_id is not None:
        headers.append(("line_id", line_id.encode()))
    return client_id.encode(), raw, headers


def redrive_headers(dead_letter: DeadLetter) -> Headers:
    """Return the headers of the record that a redrive writes: origin, number of the attempt, time of the first."""
    return [
        ("redriven_from", f"{dead_letter.topic}/{dead_letter.partition}/{dead_letter.offset}".encode()),
        ("attempt", b"%d" % (dead_letter.attempt + 1)),
        ("first_seen", b"%d" % dead_letter.first_seen),
    ]


def receipt_headers(record: Record, dead_letter: DeadLetter, redriven_ts: int) -> Headers:
    """Return the headers of a redrive receipt: the dead letter written once more, without value, as redriven."""
    kept = [(name, value) for name, value in record.headers if name not in {"redriven_ts", "attempt", "line_id"}]
    kept += [("attempt", b"%d" % dead_letter.attempt), ("redriven_ts", b"%d" % redriven_ts)]
    return [*kept, ("line_id", dead_letter.line_id.encode())] if dead_letter.line_id else kept


def _source_headers(topic: str, partition: int, offset: int, *, append_ts: int, reason: str, detail: str) -> Headers:
    seen = str(append_ts).encode()
    return [
        ("reason", reason.encode()),
        ("detail", detail.encode(errors="replace")),
        ("topic", topic.encode()),
        ("partition", str(partition).encode()),
        ("offset", str(offset).encode()),
        ("append_ts", seen),
        ("attempt", b"1"),
        ("first_seen", seen),
    ]


def _number(text: bytes | None, otherwise: bytes) -> bytes:
    # Any producer may write headers.
    return text if text is not None and text.isdigit() and len(text) <= _MAX_DIGITS else otherwise


# Reading


def read(record: Record) -> DeadLetter | None:
    """Return the dead letter in a record, or None if its headers do not describe one."""
    headers = {name: value for name, value in record.headers if value is not None}
    try:
        append_ts = int(headers["append_ts"])
        return DeadLetter(
            topic=headers["topic"].decode(),
            partition=int(headers["partition"]),
            offset=int(headers["offset"]),
            line_id=headers.get("line_id", b"").decode(),
            reason=headers["reason"].decode(),
            detail=headers.get("detail", b"").decode(errors="replace"),
            append_ts=append_ts,
            first_seen=int(headers.get("first_seen", append_ts)),
            attempt=int(headers.get("attempt", 1)),
            redriven_ts=int(headers["redriven_ts"]) if "redriven_ts" in headers else None,
            size=len(record.value or b""),
            is_truncated="sha256" in headers,
            location=(record.partition, record.offset),
            is_receipt="redriven_ts" in headers,
        )
    except (KeyError, ValueError):
        return None


def header_row(headers: Sequence[tuple[str, bytes]]) -> dict[str, str | int | None]:
    """Return every header of a dead letter as text or integer; None stands for an absent or unreadable one.

    >>> row = header_row([("reason", b"not_json"), ("offset", b"7"), ("attempt", b"many")])
    >>> row["reason"], row["offset"], row["attempt"], row["line_id"]
    ('not_json', 7, None, None)
    """
    found = dict(headers)
    row: dict[str, str | int | None] = {}
    for name in _TEXT_HEADERS:
        text = found.get(name)
        row[name] = text.decode(errors="replace") if text is not None else None
    for name in _INTEGER_HEADERS:
        try:
            row[name] = int(found[name])
        except (KeyError, TypeError, ValueError):
            row[name] = None
    return row


# Selecting


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The dead letters of a topic.

    Attributes:
        dead_letters: In order of `append_ts`, then of coordinates.
        num_unreadable: Records whose headers do not describe a dead letter.
    """

    dead_letters: tuple[DeadLetter, ...]
    num_unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A selection of dead letters; the default selects all.

    Attributes:
        reasons: Reason codes, empty for any.
        from_ts: Earliest `append_ts`.
        to_ts: `append_ts` must lie before this.
        limit: Largest number of dead letters, the oldest first.
    """

    reasons: frozenset[str] = frozenset()
    from_ts: int | None = None
    to_ts: int | None = None
    limit: int | None = None

    def select(self, dead_letters: Iterable[DeadLetter]) -> list[DeadLetter]:
        """Return the selected dead letters in their order."""
        return [dead_letter for dead_letter in dead_letters if self._matches(dead_letter)][: self.limit]

    def _matches(self, dead_letter: DeadLetter) -> bool:
        return (
            (not self.reasons or dead_letter.reason in self.reasons)
            and (self.from_ts is None or dead_letter.append_ts >= self.from_ts)
            and (self.to_ts is None or dead_letter.append_ts < self.to_ts)
        )


def collect(records: Iterable[Record]) -> Collected:
    """Return the dead letters in the records of `dead_letters` or `unjoined`, in any order."""
    known: dict[Identity, DeadLetter] = {}
    num_unreadable = 0
    for record in records:
        found = read(record)
        if found is None:
            num_unreadable += 1
            continue
        earlier = known.get(found.identity)
        known[found.identity] = found if earlier is None else _merged(earlier, found)
    ordered = sorted(known.values(), key=lambda each: (each.append_ts, each.identity))
    return Collected(dead_letters=tuple(ordered), num_unreadable=num_unreadable)


def count_reasons(dead_letters: Iterable[DeadLetter]) -> Counter[str]:
    """Return the number of dead letters by reason."""
    return Counter(dead_letter.reason for dead_letter in dead_letters)


def at(dead_letters: Iterable[DeadLetter], coordinates: Coordinates) -> list[DeadLetter]:
    """Return the dead letters of one source record: one for each order line of it that did not join, or one in all."""
    return [dead_letter for dead_letter in dead_letters if dead_letter.coordinates == coordinates]


def payloads(records: Iterable[Record], locations: Collection[Location]) -> Iterable[Record]:
    """Return the records at some locations, which carry the values of their dead letters."""
    return (record for record in records if (record.partition, record.offset) in locations)


def _merged(one: DeadLetter, other: DeadLetter) -> DeadLetter:
    if one.attempt != other.attempt:
        return max(one, other, key=lambda dead_letter: dead_letter.attempt)
    redriven = [each.redriven_ts for each in (one, other) if each.redriven_ts is not None]
    kept = min(one, other, key=lambda dead_letter: (dead_letter.is_receipt, dead_letter.location))
    return replace(kept, redriven_ts=max(redriven)) if redriven else kept
