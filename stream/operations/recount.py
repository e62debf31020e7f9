"""Conservation of events, recounted from the topics alone: no counter of the join is read.

Every produced unit (a record, or an order line of a decodable conversion) is looked up in `sessions`, `unjoined` and
`dead_letters`; what is found nowhere is `open` while its windows may still be, and `lost` afterwards.

Memory is bounded: what is looked up is sorted beside what it is looked up in, first by the coordinates of records, then
by the identity of units.

Source: docs/stream.md; docs/architecture.md, promise G1.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import msgspec

from stream.errors import SchemaError
from stream.join.settings import JoinSettings
from stream.operations.sorted_runs import SortedRuns
from stream.schemas import dead_letter, decode, session, topics
from stream.schemas.events import ALL_LINES, Click, Conversion, Impression
from stream.schemas.money import NO_CURRENCY
from stream.schemas.outcomes import LATE, ORPHAN, OUTCOME_OF_REASON
from stream.schemas.records import Record
from stream.schemas.session import Progress, Session

MEMORY_BYTES = 32 << 20
_Identity = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recount:
    """Counts by outcome.

    Attributes:
        produced: Units in the input topics.
        joined: Units that a session shows as its list or its evidence.
        duplicate: Further copies of joined units.
        late: Units in `unjoined` that came too late, or were evicted.
        orphan: Units in `unjoined` that refer to nothing.
        dead: Records in `dead_letters`.
        open: Units without an outcome whose windows are not over.
        lost: Units without an outcome whose windows are over; anything but 0 is a fault.
        reasons: Units in the side topics by reason.
        sources: Units in `unjoined` by reason and by the program that wrote the event.
        currencies: Order lines in another currency than their session, by both currencies. No sum of money has them.
    """

    produced: int
    joined: int
    duplicate: int
    late: int
    orphan: int
    dead: int
    open: int
    lost: int
    reasons: dict[str, int]
    sources: dict[str, int]
    currencies: dict[str, int]

    @property
    def rows(self) -> list[tuple[str, int]]:
        """Return the counts as rows of a table: the outcomes, then what they consist of."""
        names = ("produced", "joined", "duplicate", "late", "orphan", "dead", "open", "lost")
        parts = (self.reasons, self.sources, self.currencies)
        return [(name, getattr(self, name)) for name in names] + [row for part in parts for row in sorted(part.items())]

    @property
    def is_closed(self) -> bool:
        """Return whether every produced unit has exactly one outcome."""
        outcomes = self.joined + self.duplicate + self.late + self.orphan + self.dead
        return self.lost == 0 and self.produced == outcomes + self.open


@dataclass(frozen=True, slots=True)
class _Unit:
    """A unit of an input record.

    Attributes:
        identity: Digest of what its copies share.
        line_id: Order line, or empty.
        event_ts: Event time.
        source: Program that wrote the event.
    """

    identity: bytes
    line_id: str
    event_ts: int
    source: str


@dataclass(frozen=True, slots=True)
class _Letter:
    """A record of a side topic; a dead letter has no line."""

    line_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Sought:
    """A unit without a dead letter, to be looked up among the joined ones; a joined one has no partition."""

    identity: bytes
    partition: int | None = None
    event_ts: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode_units = msgspec.msgpack.Decoder(list[_Unit]).decode
_decode_letter = msgspec.msgpack.Decoder(_Letter).decode
_decode_sought = msgspec.msgpack.Decoder(_Sought).decode
_UNITS, _LETTER = b"u", b"l"


class _Found:
    """Records of inputs and of side topics by coordinates, and units by identity."""

    def __init__(self, by_place: SortedRuns, by_identity: SortedRuns) -> None:
        self._by_place = by_place
        self._by_identity = by_identity
        self.watermarks: dict[int, int] = {}
        self.currencies: dict[str, tuple[int, Counter[str]]] = {}

    def take(self, record: Record) -> None:
        if record.topic in topics.EVENT_TOPICS:
            place = _place(record.topic, record.partition, record.offset)
            self._by_place.add(place, _UNITS + _encode(_units(record)))
        elif record.topic == topics.SESSIONS:
            content = session.decode(record.value or b"")
            if isinstance(content, Session):
                self._take_session(content)
            elif isinstance(content, Progress):
                known = self.watermarks.get(content.partition, 0)
                self.watermarks[content.partition] = max(known, content.watermark_ts)
        elif record.topic in {topics.UNJOINED, topics.DEAD_LETTERS}:
            found = dead_letter.read(record)
            if found is not None and _is_place(*found.coordinates):
                line_id = found.line_id if record.topic == topics.UNJOINED else None
                letter = _encode(_Letter(line_id, found.reason))
                self._by_place.add(_place(*found.coordinates), _LETTER + letter)

    def seek(self, unit: _Unit, partition: int) -> None:
        """Look a unit up among the joined ones."""
        self._add(_Sought(unit.identity, partition, unit.event_ts))

    def _add_joined(self, identity: _Identity) -> None:
        self._add(_Sought(_digest(identity)))

    def _add(self, sought: _Sought) -> None:
        self._by_identity.add(int.from_bytes(sought.identity[:7], "little"), _encode(sought))

    def _take_session(self, content: Session) -> None:
        if not content.parts:
            self._add_joined(_impression_identity(content.query_id))
        for part in content.parts:
            self._add_joined(_impression_identity(content.query_id, "" if part.is_whole else part.event_id))
        for event in content.events:
            if event.topic == topics.CLICKS:
                self._add_joined((topics.CLICKS, event.event_id))
        foreign = Counter(
            f"order line in {line.currency}, session in {content.currency}"
            for line in content.lines
            if line.currency not in {content.currency, NO_CURRENCY}
        )
        # A later revision may correct the currency of the session.
        if (foreign or content.query_id in self.currencies) and content.revision >= self.currencies.get(
            content.query_id, (0, foreign)
        )[0]:
            self.currencies[content.query_id] = (content.revision, foreign)
        for line in content.lines:
            self._add_joined(_line_identity(content.client_id, line.transaction_id, line.line_id, line.refund_id))
            if line.refund_id:
                self._add_joined(_line_identity(content.client_id, line.transaction_id, ALL_LINES, line.refund_id))


def recount(
    records: Iterable[Record], settings: JoinSettings | None = None, *, memory_bytes: int = MEMORY_BYTES
) -> Recount:
    """Return the counts of every produced unit by outcome.

    Args:
        records: All records of the three event topics, `sessions`, `unjoined` and `dead_letters`, in any order; those
            of other topics are ignored. Repeated records change nothing.
        settings: Windows that tell open from lost.
        memory_bytes: Size of what is held in memory; more goes to temporary files.

    Raises:
        OSError: If a temporary file cannot be written.
    """
    settings = settings or JoinSettings()
    # The last part of a list begins its window up to a window after the first part.
    patience_ms = 2 * settings.click_window_s * 1_000 + settings.longest_wait_ms
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    with SortedRuns(memory_bytes // 2) as by_place, SortedRuns(memory_bytes // 2) as by_identity:
        found = _Found(by_place, by_identity)
        for record in records:
            found.take(record)
        for place, entries in groupby(by_place, itemgetter(0)):
            _count_place(
                [content for _, content in entries],
                _partition(place),
                found,
                counts=counts,
                reasons=reasons,
                sources=sources,
            )
        for _, entries in groupby(by_identity, itemgetter(0)):
            _count_identities([_decode_sought(content) for _, content in entries], found, patience_ms, counts)
    return Recount(
        produced=counts["produced"],
        joined=counts["joined"],
        duplicate=counts["duplicate"],
        late=counts[LATE],
        orphan=counts[ORPHAN],
        dead=counts["dead"],
        open=counts["open"],
        lost=counts["lost"],
        reasons=dict(reasons),
        sources=dict(sources),
        currencies=dict(sum((names for _, names in found.currencies.values()), Counter[str]())),
    )


def _count_place(
    entries: list[bytes],
    partition: int,
    found: _Found,
    *,
    counts: Counter[str],
    reasons: Counter[str],
    sources: Counter[str],
) -> None:
    """Count the units of one input record that have a dead letter, and look the others up by identity."""
    letters = [_decode_letter(entry[1:]) for entry in entries if entry[:1] == _LETTER]
    read = next((entry for entry in entries if entry[:1] == _UNITS), None)
    if read is None:
        return
    by_line = {letter.line_id: letter.reason for letter in letters}
    if None in by_line:
        counts.update(("produced", "dead"))
        reasons[by_line[None]] += 1
        return
    for unit in _decode_units(read[1:]):
        counts["produced"] += 1
        reason = by_line.get(unit.line_id)
        if reason is None:
            found.seek(unit, partition)
            continue
        counts[OUTCOME_OF_REASON[reason]] += 1
        reasons[reason] += 1
        sources[f"{reason} of {unit.source}"] += 1


def _count_identities(entries: list[_Sought], found: _Found, patience_ms: int, counts: Counter[str]) -> None:
    """Count units whose digests begin alike: joined once where a session shows them, open or lost where none does."""
    joined = {each.identity for each in entries if each.partition is None}
    met: set[bytes] = set()
    for each in entries:
        if each.partition is None:
            continue
        if each.identity in joined:
            counts["duplicate" if each.identity in met else "joined"] += 1
            met.add(each.identity)
        else:
            is_over = each.event_ts + patience_ms < found.watermarks.get(each.partition, 0)
            counts["lost" if is_over else "open"] += 1


def _is_place(topic: str, partition: int, offset: int) -> bool:
    # Coordinates come from headers, and rejects of ingest have a source of their own.
    return topic in topics.EVENT_TOPICS and 0 <= partition < 1 << 16 and 0 <= offset < 1 << 46


def _place(topic: str, partition: int, offset: int) -> int:
    return topics.EVENT_TOPICS.index(topic) << 62 | partition << 46 | offset


def _partition(place: int) -> int:
    return place >> 46 & 0xFFFF


def _digest(identity: _Identity) -> bytes:
    return hashlib.blake2b(msgspec.msgpack.encode(identity), digest_size=16).digest()


def _units(record: Record) -> list[_Unit]:
    """Return the units of an input record."""
    try:
        event: Impression | Click | Conversion
        if record.topic == topics.IMPRESSIONS:
            event = decode.impression(record.value)
            identity = _impression_identity(event.query_id, event.event_id if event.items.position else "")
            return [_Unit(_digest(identity), "", event.event_ts, event.source)]
        if record.topic == topics.CLICKS:
            event = decode.click(record.value)
            return [_Unit(_digest((topics.CLICKS, event.event_id)), "", event.event_ts, event.source)]
        event = decode.conversion(record.value)
    except SchemaError:
        return [_Unit(_digest(()), "", record.timestamp, "")]
    refund_id = "" if event.action_name == "purchase" else event.refund_id or event.event_id
    return [
        _Unit(
            _digest(_line_identity(event.client_id, event.transaction_id, line.line_id, refund_id)),
            line.line_id,
            event.event_ts,
            event.source,
        )
        for line in event.items
    ]


def _impression_identity(query_id: str, part: str = "") -> _Identity:
    """Return the identity of a whole list, or of a part by the id of its event."""
    return (topics.IMPRESSIONS, query_id, part)


def _line_identity(client_id: str, transaction_id: str, line_id: str, refund_id: str) -> _Identity:
    return (topics.CONVERSIONS, client_id, transaction_id, line_id, refund_id)
