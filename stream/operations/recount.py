"""Conservation of events, recounted from the topics alone: no counter of the join is read.

Every produced unit (a record, or an order line of a decodable conversion) is looked up in `sessions`, `unjoined` and
`dead_letters`; what is found nowhere is `open` while its windows may still be, and `lost` afterwards.

Source: docs/stream.md; docs/architecture.md, promise G1.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from stream.errors import SchemaError
from stream.join.settings import JoinSettings
from stream.schemas import dead_letter, decode, session, topics
from stream.schemas.events import ALL_LINES, Click, Conversion, Impression
from stream.schemas.money import NO_CURRENCY
from stream.schemas.outcomes import LATE, ORPHAN, OUTCOME_OF_REASON
from stream.schemas.records import Record
from stream.schemas.session import Session

_Coordinates = tuple[str, int, int]
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


class _Found:
    """Units found in the output topics."""

    def __init__(self) -> None:
        self.joined: set[_Identity] = set()
        self.unjoined: dict[tuple[_Coordinates, str], str] = {}
        self.dead: dict[_Coordinates, str] = {}
        self.watermarks: dict[int, int] = {}
        self.currencies: dict[str, tuple[int, Counter[str]]] = {}

    def take(self, record: Record) -> None:
        if record.topic == topics.SESSIONS:
            content = session.decode(record.value or b"")
            if isinstance(content, Session):
                self._take_session(content)
            else:
                known = self.watermarks.get(content.partition, 0)
                self.watermarks[content.partition] = max(known, content.watermark_ts)
            return
        found = dead_letter.read(record)
        if found is None:
            return
        if record.topic == topics.DEAD_LETTERS:
            self.dead[found.coordinates] = found.reason
        else:
            self.unjoined[found.coordinates, found.line_id] = found.reason

    def _take_session(self, content: Session) -> None:
        self.joined.add((topics.IMPRESSIONS, content.query_id))
        for event in content.events:
            if event.topic == topics.CLICKS:
                self.joined.add((topics.CLICKS, event.event_id))
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
            self.joined.add(_line_identity(content.client_id, line.transaction_id, line.line_id, line.refund_id))
            if line.refund_id:
                self.joined.add(_line_identity(content.client_id, line.transaction_id, ALL_LINES, line.refund_id))


def recount(records: Iterable[Record], settings: JoinSettings | None = None) -> Recount:
    """Return the counts of every produced unit by outcome.

    Args:
        records: All records of the three event topics, `sessions`, `unjoined` and `dead_letters`, in any order; those
            of other topics are ignored. Repeated records change nothing.
        settings: Windows that tell open from lost.
    """
    settings = settings or JoinSettings()
    found = _Found()
    inputs: dict[_Coordinates, Record] = {}
    for record in records:
        if record.topic in topics.EVENT_TOPICS:
            inputs[record.topic, record.partition, record.offset] = record
        elif record.topic in {topics.SESSIONS, topics.UNJOINED, topics.DEAD_LETTERS}:
            found.take(record)
    patience_ms = settings.click_window_s * 1_000 + settings.longest_wait_ms
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    met: set[_Identity] = set()
    for where, record in inputs.items():
        if where in found.dead:
            counts.update(("produced", "dead"))
            reasons[found.dead[where]] += 1
            continue
        for identity, line_id, event_ts, source in _units(record):
            counts["produced"] += 1
            reason = found.unjoined.get((where, line_id))
            if reason is not None:
                counts[OUTCOME_OF_REASON[reason]] += 1
                reasons[reason] += 1
                sources[f"{reason} of {source}"] += 1
            elif identity in found.joined:
                counts["duplicate" if identity in met else "joined"] += 1
                met.add(identity)
            else:
                over = event_ts + patience_ms < found.watermarks.get(record.partition, 0)
                counts["lost" if over else "open"] += 1
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


def _units(record: Record) -> list[tuple[_Identity, str, int, str]]:
    """Return identity, line id, time and source of each unit of an input record."""
    try:
        event: Impression | Click | Conversion
        if record.topic == topics.IMPRESSIONS:
            event = decode.impression(record.value)
            return [((topics.IMPRESSIONS, event.query_id), "", event.event_ts, event.source)]
        if record.topic == topics.CLICKS:
            event = decode.click(record.value)
            return [((topics.CLICKS, event.event_id), "", event.event_ts, event.source)]
        event = decode.conversion(record.value)
    except SchemaError:
        return [((), "", record.timestamp, "")]
    refund_id = "" if event.action_name == "purchase" else event.refund_id or event.event_id
    return [
        (
            _line_identity(event.client_id, event.transaction_id, line.line_id, refund_id),
            line.line_id,
            event.event_ts,
            event.source,
        )
        for line in event.items
    ]


def _line_identity(client_id: str, transaction_id: str, line_id: str, refund_id: str) -> _Identity:
    return (topics.CONVERSIONS, client_id, transaction_id, line_id, refund_id)
