"""Redrive of dead letters: new records on their source topics, each with its own outcome.

Pure functions choose the records of a dead letter; `redrive` sends them, waits for the broker, and marks it as
redriven, so that a second call sends nothing twice. After a crash in between, the join finds duplicates.

Source: docs/stream.md.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from stream.adapters import FORMATS, Options, adapt
from stream.adapters.rejects import TOPIC_PREFIX, dead_letter_of
from stream.operations.ingest import Sender
from stream.schemas import dead_letter, decode, topics
from stream.schemas.dead_letter import DeadLetter, Filter, Location
from stream.schemas.records import ProducerRecord, Record

MAX_ATTEMPTS = 3
_BATCH = 500
_BURST_S = 0.1

CUT = "payload_cut"
NO_EVENT = "no_event"
REDRIVEN = "already_redriven"
ATTEMPTS = "too_many_attempts"
UNCHANGED = "rejected_as_before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Plan of a redrive.

    Attributes:
        records: Location of a payload to the dead letters of its source record; one write of it settles all of them.
        refused: Selected dead letters that are not redriven, by cause.
    """

    records: Mapping[Location, tuple[DeadLetter, ...]]
    refused: Counter[str]


@dataclass(slots=True, kw_only=True)
class Redriven:
    """Counts of a redrive.

    Attributes:
        num_dead_letters: Dead letters redriven.
        records: Records written, by topic; `dead_letters` are payloads of adapters that were rejected anew.
        reasons: Dead letters redriven, by reason.
        refused: Dead letters left as they are, by cause.
    """

    num_dead_letters: int = 0
    records: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


class TokenBucket:
    """A limit of `rate` records a second, with bursts of a tenth of a second."""

    def __init__(self, rate: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        """Start full.

        Raises:
            ValueError: If the rate is not positive.
        """
        if not rate > 0:
            raise ValueError(f"rate {rate}: expected more than 0 records a second")
        self._rate = rate
        self._capacity = max(1.0, rate * _BURST_S)
        self._clock = clock
        self._sleep = sleep
        self._tokens = self._capacity
        self._at_s = clock()

    def take(self) -> None:
        """Take one token, and sleep for as long as the bucket is overdrawn by it."""
        now_s = self._clock()
        self._tokens = min(self._capacity, self._tokens + (now_s - self._at_s) * self._rate) - 1
        self._at_s = now_s
        if self._tokens < 0:
            self._sleep(-self._tokens / self._rate)


def plan(found: Iterable[DeadLetter], meant: Filter, *, max_attempts: int = MAX_ATTEMPTS) -> Plan:
    """Return the plan for the dead letters of a topic; the limit counts redriven source records."""
    everything = list(found)
    of_source: dict[dead_letter.Coordinates, list[DeadLetter]] = {}
    for letter in everything:
        of_source.setdefault(letter.coordinates, []).append(letter)
    chosen: dict[dead_letter.Coordinates, Location] = {}
    refused: Counter[str] = Counter()
    for letter in replace(meant, limit=None).select(everything):
        cause = _refusal(letter, max_attempts)
        if cause is not None:
            refused[cause] += 1
        elif letter.coordinates not in chosen and (meant.limit is None or len(chosen) < meant.limit):
            chosen[letter.coordinates] = letter.location
    return Plan(records={place: tuple(of_source[where]) for where, place in chosen.items()}, refused=refused)


def outgoing(letter: DeadLetter, record: Record, options: Options, *, now_ms: int) -> list[ProducerRecord]:
    """Return the records that redrive a dead letter; none if an adapter rejects its payload just as before.

    Args:
        letter: Any dead letter of the source record.
        record: The one that carries the original bytes.
        options: For payloads of other conventions.
        now_ms: For a payload that an adapter rejects for another reason than before.
    """
    headers = dead_letter.redrive_headers(letter)
    if not letter.topic.startswith(TOPIC_PREFIX):
        key = decode.client_key(record.value)
        return [
            ProducerRecord(
                topic=letter.topic, key=record.key if key is None else key, value=record.value, headers=headers
            )
        ]
    name = letter.topic.removeprefix(TOPIC_PREFIX)
    adapted, rejected = adapt(name, record.value or b"", options)
    sent = [ProducerRecord(topic=each.topic, key=each.key, value=each.value, headers=headers) for each in adapted]
    if rejected:
        key, value, anew = dead_letter_of(name, rejected, now_ms=now_ms, key=record.key)
        written = dict(anew)
        if (written["reason"].decode(), written["detail"].decode(errors="replace")) == (letter.reason, letter.detail):
            return []
        sent.append(ProducerRecord(topic=topics.DEAD_LETTERS, key=key, value=value, headers=_replaced(anew, headers)))
    return sent


def redrive(
    producer: Sender | None,
    topic: str,
    planned: Plan,
    records: Iterable[Record],
    *,
    options: Options,
    bucket: TokenBucket,
    now_ms: Callable[[], int],
) -> Redriven:
    """Carry out a plan; all that was sent is acknowledged before it is marked.

    Args:
        producer: Where to; None only counts, and does not wait.
        topic: `dead_letters` or `unjoined`.
        planned: The plan.
        records: The records of `topic`, read again.
        options: For payloads of other conventions.
        bucket: Limits records per second.
        now_ms: Epoch milliseconds.

    Raises:
        BusError: If the broker did not acknowledge all of them; run it again.
    """
    done = Redriven(refused=Counter(planned.refused))
    unmarked: list[tuple[Record, DeadLetter]] = []
    for record in dead_letter.payloads(records, planned.records):
        settled = planned.records[record.partition, record.offset]
        sent = outgoing(settled[0], record, options, now_ms=now_ms())
        if not sent:
            done.refused[UNCHANGED] += 1
            continue
        for each in sent:
            done.records[each.topic] += 1
            if producer is not None:
                bucket.take()
                producer.send(each.topic, key=each.key, value=each.value, headers=each.headers)
        done.num_dead_letters += len(settled)
        done.reasons.update(letter.reason for letter in settled)
        # A payload that was rejected anew is a newer attempt of the same dead letter: nothing to mark.
        unmarked += [(record, letter) for letter in settled if sent[-1].topic != topics.DEAD_LETTERS]
        if len(unmarked) >= _BATCH:
            _mark(producer, topic, unmarked, now_ms)
    _mark(producer, topic, unmarked, now_ms)
    return done


def _mark(
    producer: Sender | None, topic: str, unmarked: list[tuple[Record, DeadLetter]], now_ms: Callable[[], int]
) -> None:
    if producer is not None:
        producer.flush()
        for record, letter in unmarked:
            headers = dead_letter.receipt_headers(record, letter, now_ms())
            producer.send(topic, key=record.key, value=None, partition=record.partition, headers=headers)
        producer.flush()
    unmarked.clear()


def _refusal(letter: DeadLetter, max_attempts: int) -> str | None:
    if letter.redriven_ts is not None:
        return REDRIVEN
    if letter.is_truncated:
        return CUT
    name = letter.topic.removeprefix(TOPIC_PREFIX)
    if letter.topic not in topics.EVENT_TOPICS and not (letter.topic != name and name in FORMATS):
        return NO_EVENT
    return ATTEMPTS if letter.attempt >= max_attempts else None


def _replaced(headers: list[tuple[str, bytes]], newer: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    names = {name for name, _ in newer}
    return [*(pair for pair in headers if pair[0] not in names), *newer]
