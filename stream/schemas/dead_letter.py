"""Letters of `dead_letters` and `unjoined` as an operator sees them: one per source record, however often written.

A letter is known by the coordinates of its source, and in `unjoined` by its order line too. Later writes of it, after a
crash of the join or as the mark of a redrive, are the same letter: the highest attempt speaks for it, and what marks
that attempt as redriven stays with it. Payloads are not kept here, only where they are.

Source: STREAM.md 9.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from stream.schemas import topics
from stream.schemas.records import Record

TOPICS = (topics.DEAD_LETTERS, topics.UNJOINED)
REDRIVEN_TS = "redriven_ts"
REDRIVEN_FROM = "redriven_from"
Headers = Sequence[tuple[str, bytes]]
Coordinates = tuple[str, int, int]
Identity = tuple[str, int, int, str]
Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What is known of a letter without its payload.

    Attributes:
        topic: Where its source record lies, or `ingest:FORMAT`.
        partition: Partition of the source record.
        offset: Offset of the source record.
        line_id: The order line that it speaks of, empty for whole records.
        reason: Reason code.
        detail: What was expected and what came.
        append_ts: When the source record was appended.
        first_seen: When the first of a chain of redriven records was appended.
        attempt: 1, and one more for each redrive of the chain.
        redriven_ts: When this attempt was redriven, None if it was not.
        size: Bytes of the payload as it is kept.
        cut: Whether the payload is not whole.
        place: Partition and offset of the payload in the letters' topic.
        is_mark: Whether only the mark of its redrive was found, which has no payload.
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
    cut: bool
    place: Place
    is_mark: bool

    @property
    def coordinates(self) -> Coordinates:
        """Return where the source record lies."""
        return self.topic, self.partition, self.offset

    @property
    def identity(self) -> Identity:
        """Return what tells this letter from others."""
        return *self.coordinates, self.line_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The letters of a topic.

    Attributes:
        letters: In order of `append_ts`, then of coordinates.
        num_unreadable: Records whose headers are not those of a letter.
    """

    letters: tuple[Letter, ...]
    num_unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are meant; the default is all.

    Attributes:
        reasons: Reason codes, empty for any.
        from_ts: Earliest `append_ts`.
        to_ts: `append_ts` must lie before this.
        limit: The oldest so many at most.
    """

    reasons: frozenset[str] = frozenset()
    from_ts: int | None = None
    to_ts: int | None = None
    limit: int | None = None

    def of(self, letters: Iterable[Letter]) -> list[Letter]:
        """Return the letters that are meant, in their order."""
        return [letter for letter in letters if self._takes(letter)][: self.limit]

    def _takes(self, letter: Letter) -> bool:
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (self.from_ts is None or letter.append_ts >= self.from_ts)
            and (self.to_ts is None or letter.append_ts < self.to_ts)
        )


def collect(records: Iterable[Record]) -> Collected:
    """Return the letters that the records of a letters' topic amount to, in whatever order they were written."""
    letters: dict[Identity, Letter] = {}
    num_unreadable = 0
    for record in records:
        letter = read(record)
        if letter is None:
            num_unreadable += 1
            continue
        known = letters.get(letter.identity)
        letters[letter.identity] = letter if known is None else _merged(known, letter)
    ordered = sorted(letters.values(), key=lambda each: (each.append_ts, each.identity))
    return Collected(letters=tuple(ordered), num_unreadable=num_unreadable)


def read(record: Record) -> Letter | None:
    """Return the letter in a record, or None if its headers are not those of a letter."""
    headers = dict(record.headers)
    try:
        append_ts = int(headers["append_ts"])
        return Letter(
            topic=headers["topic"].decode(),
            partition=int(headers["partition"]),
            offset=int(headers["offset"]),
            line_id=headers.get("line_id", b"").decode(),
            reason=headers["reason"].decode(),
            detail=headers.get("detail", b"").decode(errors="replace"),
            append_ts=append_ts,
            first_seen=int(headers.get("first_seen", append_ts)),
            attempt=int(headers.get("attempt", 1)),
            redriven_ts=int(headers[REDRIVEN_TS]) if REDRIVEN_TS in headers else None,
            size=len(record.value or b""),
            cut="sha256" in headers,
            place=(record.partition, record.offset),
            is_mark=REDRIVEN_TS in headers,
        )
    except (KeyError, ValueError):
        return None


def count_reasons(letters: Iterable[Letter]) -> Counter[str]:
    """Return the number of letters by reason."""
    return Counter(letter.reason for letter in letters)


def at(letters: Iterable[Letter], coordinates: Coordinates) -> list[Letter]:
    """Return the letters of one source record: several if it was an order of which several lines did not join."""
    return [letter for letter in letters if letter.coordinates == coordinates]


def payloads(records: Iterable[Record], places: Collection[Place]) -> Iterable[Record]:
    """Return the records at some places of a letters' topic: those that carry the original bytes."""
    return (record for record in records if (record.partition, record.offset) in places)


def mark(record: Record, letter: Letter, redriven_ts: int) -> list[tuple[str, bytes]]:
    """Return the headers of a letter written once more to say that it was redriven; such a write has no payload."""
    kept = [(name, value) for name, value in record.headers if name not in {REDRIVEN_TS, "attempt", "line_id"}]
    kept += [("attempt", b"%d" % letter.attempt), (REDRIVEN_TS, b"%d" % redriven_ts)]
    return [*kept, ("line_id", letter.line_id.encode())] if letter.line_id else kept


def _merged(known: Letter, other: Letter) -> Letter:
    if known.attempt != other.attempt:
        return max(known, other, key=lambda letter: letter.attempt)
    marks = [letter.redriven_ts for letter in (known, other) if letter.redriven_ts is not None]
    kept = min(known, other, key=lambda letter: (letter.is_mark, letter.place))
    return replace(kept, redriven_ts=max(marks)) if marks else kept
