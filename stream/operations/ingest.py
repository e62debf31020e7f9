"""Send what other systems recorded to our topics: adapted lines as records, the others as dead letters.

Events of kinds that have no counterpart are counted by kind. Every other event has one of two ends, both acknowledged
by the broker. Repeating a file repeats ids and coordinates, so nothing counts twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Protocol

from stream.adapters import Adapted, Options, Rejected, adapt
from stream.adapters.rejects import dead_letter_of, kept
from stream.operations.event_files import EventFileError, Payload
from stream.schemas import topics

LOOKAHEAD = 1_000


class Sender(Protocol):
    """The part of `stream.broker.producer.Producer` that operations use."""

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        """Queue one record."""
        ...

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all are acknowledged."""
        ...


@dataclass(slots=True, kw_only=True)
class Ingested:
    """Counts of the records and rejects of event files.

    Attributes:
        num_payloads: Payloads of the files.
        records: Records by topic.
        num_old: Records older than `oldest_live_ts`.
        num_dead_letters: Events that went to `dead_letters`.
        reasons: Rejected events by reason code.
        unmapped: Events without a counterpart by the source's kind, such as `page_view`; not stored by default.
        first_rejects: Payload, reason and detail of the first events that become dead letters.
    """

    num_payloads: int = 0
    records: Counter[str] = field(default_factory=Counter)
    num_old: int = 0
    num_dead_letters: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    first_rejects: list[tuple[Payload, str, str]] = field(default_factory=list)


def ingest(
    producer: Sender | None,
    name: str,
    payloads: Iterable[Payload],
    *,
    options: Options,
    now_ms: Callable[[], int],
    oldest_live_ts: int = 0,
    on_old: Callable[[int], None] = lambda _event_ts: None,
    max_shown: int = 20,
) -> Ingested:
    """Adapt each payload of a format and send what comes out, and wait until all is acknowledged.

    Args:
        producer: Where to; None only counts.
        name: The format.
        payloads: Payloads of files.
        options: What adapters need to know of the shop.
        now_ms: Epoch milliseconds, for dead letters.
        oldest_live_ts: Time before which a join that runs live counts an event as late.
        on_old: Gets the oldest event time of the first 1,000 payloads before anything is sent, if it is too old.
        max_shown: How many rejects to name.

    Raises:
        BusError: If the broker did not acknowledge all of them.
        EventFileError: If a file is damaged; the message tells how many records were sent before.
    """
    done = Ingested()
    read = ((payload, *adapt(name, payload.raw, options)) for payload in payloads)
    try:
        ahead = list(islice(read, LOOKAHEAD))
        times = [record.record.event_ts for _, adapted, _ in ahead for record in adapted]
        if times and min(times) < oldest_live_ts:
            on_old(min(times))
        for payload, adapted, rejected in chain(ahead, read):
            count(done, payload, adapted, rejected, options, oldest_live_ts=oldest_live_ts, max_shown=max_shown)
            if producer is not None:
                for record in adapted:
                    producer.send(record.topic, key=record.key, value=record.value)
            send_dead_letter(
                producer, name, payload=payload, adapted=adapted, rejected=rejected, options=options, now_ms=now_ms
            )
    except EventFileError as error:
        if producer is None:
            raise
        producer.flush()
        raise EventFileError(f"{error} ({sum(done.records.values())} records before it were sent)") from error
    if producer is not None:
        producer.flush()
    return done


def count(
    done: Ingested,
    payload: Payload,
    adapted: Sequence[Adapted],
    rejected: Sequence[Rejected],
    options: Options,
    *,
    oldest_live_ts: int = 0,
    max_shown: int = 20,
) -> None:
    """Add one payload's records and rejects to the counts; see `ingest`."""
    done.num_payloads += 1
    for record in adapted:
        done.records[record.topic] += 1
        done.num_old += record.record.event_ts < oldest_live_ts
    for reject in rejected:
        done.reasons[reject.reason] += 1
        if reject.kind:
            done.unmapped[reject.kind] += 1
    stored = kept(rejected, options)
    done.num_dead_letters += len(stored)
    shown = stored[: max_shown - len(done.first_rejects)]
    done.first_rejects += [(payload, reject.reason, reject.detail) for reject in shown]


def send_dead_letter(
    producer: Sender | None,
    name: str,
    *,
    payload: Payload,
    adapted: Sequence[Adapted],
    rejected: Sequence[Rejected],
    options: Options,
    now_ms: Callable[[], int],
) -> None:
    """Queue the dead letters of the rejects of one payload that are stored."""
    if producer is None:
        return
    client = adapted[0].key if adapted else None
    for reject in kept(rejected, options):
        key, value, headers = dead_letter_of(name, [reject], now_ms=now_ms(), key=client)
        line = ("line", b"%d" % payload.number)
        producer.send(topics.DEAD_LETTERS, key=key, value=value, headers=[*headers, line])
